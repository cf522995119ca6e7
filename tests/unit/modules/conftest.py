"""A real module on a tiny policy, with a trainer around it that never runs."""

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from llds.data import PromptDataModule
from llds.losses import GRPOLoss, KLPenalty, LLDSPenalty
from llds.modules import Optimization, SearchAgentModule
from tests.runs import tiny_policy


class _Connected(SearchAgentModule):
    """Steps with plain torch, so that gradients and optimizer can be looked at without a run."""

    def connect(self) -> "torch.optim.Optimizer":
        trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, max_epochs=1)
        trainer.datamodule = PromptDataModule(batch_size=4)  # type: ignore[attr-defined]
        trainer.strategy.connect(self)
        self.trainer = trainer
        self.setup("fit")
        optimizer = torch.optim.AdamW(self.policy.parameters(), lr=1e-3)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        self.optimizers = lambda use_pl_optimizer=True: optimizer  # type: ignore[method-assign]
        self.lr_schedulers = lambda: schedule  # type: ignore[method-assign]
        self.manual_backward = lambda loss: loss.backward()  # type: ignore[method-assign]
        return optimizer


@pytest.fixture
def make_module() -> Callable[..., _Connected]:
    def make(**changes: Any) -> _Connected:
        settings: dict[str, Any] = {
            "policy": tiny_policy(),
            "policy_loss": GRPOLoss(),
            "kl_penalty": KLPenalty(),
            "llds_penalty": LLDSPenalty(),
            "optimization": Optimization(mini_batch_size=2, micro_batch_size=3),
            "dtype": "float64",
        }
        module = _Connected(**(settings | changes))
        module.connect()
        return module

    return make

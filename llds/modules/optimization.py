"""How the weights move: optimizer, schedule and batch sizes, as one value for configuration files."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers import get_scheduler

from llds.batches.micro_batches import MicroBatchLimits
from llds.errors import ConfigurationError

_AT_LEAST_ONE = ("mini_batch_size", "micro_batch_size", "epochs", "max_nonfinite_steps")


@dataclass(frozen=True)
class Optimization:
    """How the weights move."""

    learning_rate: float = 1e-6
    """Peak learning rate of AdamW."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of AdamW's moments."""
    schedule: Literal["constant_with_warmup", "linear", "cosine"] = "constant_with_warmup"
    """Course of the learning rate after the warm-up."""
    warmup_ratio: float = 0.0
    """Share of all optimizer steps in which the learning rate rises from 0."""
    max_grad_norm: float = 1.0
    """Norm to which gradients are clipped."""
    mini_batch_size: int = 8
    """Prompts per optimizer step."""
    micro_batch_size: int = 16
    """Trajectories per forward and backward; changes memory and speed, not the result."""
    max_tokens_per_micro_batch: int | None = None
    """Tokens per forward and backward, those that trajectories share counted once; null limits trajectories alone."""
    epochs: int = 1
    """Passes over the trajectories of an iteration."""
    max_nonfinite_steps: int = 3
    """Optimizer steps in a row whose loss or gradient is not finite before the run stops; each is skipped."""

    def __post_init__(self) -> None:
        for name in _AT_LEAST_ONE:
            _check(vars(self)[name] >= 1, name, ">= 1", vars(self)[name])
        most = self.max_tokens_per_micro_batch
        _check(most is None or most >= 1, "max_tokens_per_micro_batch", ">= 1 or null", most)
        for name in ("learning_rate", "weight_decay"):
            _check(0 <= vars(self)[name] < math.inf, name, "to be a number >= 0", vars(self)[name])
        _check(all(0 <= beta < 1 for beta in self.betas), "betas", "to be in [0, 1)", self.betas)
        _check(0 <= self.warmup_ratio <= 1, "warmup_ratio", "to be a share in [0, 1]", self.warmup_ratio)
        _check(self.max_grad_norm > 0, "max_grad_norm", "> 0 (.inf does not clip)", self.max_grad_norm)

    @property
    def micro_batch_limits(self) -> MicroBatchLimits:
        """How big a micro-batch may be."""
        return MicroBatchLimits(self.micro_batch_size, self.max_tokens_per_micro_batch)

    def mini_batches(self, prompts: int) -> int:
        """Number of mini-batches of an iteration of so many prompts."""
        return prompts // self.mini_batch_size

    def steps(self, prompts: int) -> int:
        """Optimizer steps of an iteration of so many prompts."""
        return self.epochs * self.mini_batches(prompts)

    def configure(self, parameters: Iterable[nn.Parameter], steps: int) -> dict[str, Any]:
        """AdamW with a schedule that advances with each optimizer step, as Lightning takes them.

        Args:
            parameters: Those that require a gradient are trained.
            steps: Optimizer steps of the whole run.
        """
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=self.learning_rate, betas=self.betas, weight_decay=self.weight_decay)
        scheduler = get_scheduler(
            self.schedule,
            optimizer,
            num_warmup_steps=round(self.warmup_ratio * steps),
            num_training_steps=steps,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _check(holds: bool, name: str, expected: str, got: object) -> None:
    if not holds:
        raise ConfigurationError(f"Expected `model.optimization.{name}` {expected}, got {got}. Change it.")

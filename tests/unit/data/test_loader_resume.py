"""A real Trainer that stops at every possible moment and resumes: no prompt is skipped, none comes twice."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from transformers import PreTrainedTokenizerFast

from llds.batches.rollout_batch import RolloutBatch
from llds.data.prompt_data_module import PromptDataModule
from llds.rollout import TagProtocol

PROMPTS, BATCH = 7, 2


class _Recorder(LightningModule):
    """Takes one optimizer step per batch by hand and writes down which prompts came."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.tokenizer, self.protocol, self.agent_tools = tokenizer, TagProtocol(), []
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.automatic_optimization = False
        self.seen: list[list[str]] = []
        self.validated: list[list[str]] = []

    def training_step(self, batch: RolloutBatch, batch_idx: int) -> None:
        self.seen.append([prompt.prompt_id for prompt in batch.prompts])
        optimizer = cast(LightningOptimizer, self.optimizers())
        self.manual_backward(self.weight.square().sum())
        optimizer.step()

    def validation_step(self, batch: RolloutBatch, batch_idx: int) -> None:
        self.validated.append([prompt.prompt_id for prompt in batch.prompts])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class _SaveEverywhere(Callback):
    """Saves a checkpoint after every batch and at the end of every epoch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.saved: list[tuple[int, Path]] = []

    def save(self, trainer: Trainer, module: LightningModule, moment: str) -> None:
        assert isinstance(module, _Recorder)
        path = self.folder / f"{len(module.seen)}-{moment}.ckpt"
        trainer.save_checkpoint(path)
        self.saved.append((len(module.seen), path))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.save(trainer, pl_module, "batch")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save(trainer, pl_module, "epoch")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save(trainer, pl_module, "validation")


@pytest.fixture
def fit(
    tokenizer: PreTrainedTokenizerFast, write_jsonl: Callable[..., str], tmp_path: Path
) -> Callable[..., tuple[_Recorder, _SaveEverywhere]]:
    rows = [{"question": f"Question {i}?", "golden_answers": "x"} for i in range(PROMPTS)]
    path = write_jsonl(*rows)

    def run(
        trainer: dict[str, Any], data: dict[str, Any], ckpt_path: Path | None = None
    ) -> tuple[_Recorder, _SaveEverywhere]:
        module, saver = _Recorder(tokenizer), _SaveEverywhere(tmp_path)
        quiet: dict[str, Any] = {
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "accelerator": "cpu",
        }
        quiet |= {"enable_checkpointing": False, "barebones": False, "num_sanity_val_steps": 0}
        callbacks: list[Callback] = [saver] if ckpt_path is None else []
        loop = Trainer(default_root_dir=tmp_path, callbacks=callbacks, **quiet, **trainer)
        module_data = PromptDataModule(train=path, batch_size=BATCH, **data)
        loop.fit(module, module_data, ckpt_path=None if ckpt_path is None else str(ckpt_path), weights_only=False)
        return module, saver

    return run


CASES = {
    "one long epoch": ({"max_epochs": 1}, {"iterations": 8}),
    "passes as epochs": ({"max_epochs": 3}, {}),
    "streams as epochs": ({"max_epochs": 3}, {"iterations": 3}),
    "a limit of steps": ({"max_epochs": -1, "max_steps": 9}, {"iterations": 4}),
    "a limit of steps over passes": ({"max_epochs": -1, "max_steps": 9}, {}),
    "shortened epochs": ({"max_epochs": 3, "limit_train_batches": 2}, {"iterations": 5}),
    "shortened passes": ({"max_epochs": 3, "limit_train_batches": 3}, {}),
    "shortened epochs and a limit of steps": ({"max_steps": 9, "limit_train_batches": 4}, {"iterations": 5}),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_training_resumes_with_the_next_prompt_from_every_checkpoint(
    fit: Callable[..., tuple[_Recorder, _SaveEverywhere]], case: str
) -> None:
    trainer, data = CASES[case]
    whole, saver = fit(trainer, data)
    assert len(whole.seen) >= 6
    assert len(saver.saved) > len(whole.seen)
    for count, path in saver.saved:
        resumed, _ = fit(trainer, data, ckpt_path=path)
        assert whole.seen[:count] + resumed.seen == whole.seen, path.name


@pytest.mark.filterwarnings("ignore")
def test_training_resumes_from_a_checkpoint_of_a_validation_inside_the_epoch(
    fit: Callable[..., tuple[_Recorder, _SaveEverywhere]], write_jsonl: Callable[..., str]
) -> None:
    path = write_jsonl(*[{"question": f"{i}?", "golden_answers": "x"} for i in range(3)], name="validation.jsonl")
    trainer = {"max_epochs": 1, "val_check_interval": 2}
    data = {"iterations": 6, "validation": path}
    whole, saver = fit(trainer, data)
    assert whole.validated == [["1", "2", "3"]] * 3
    validations = [(count, saved) for count, saved in saver.saved if "validation" in saved.name]
    assert [count for count, _ in validations] == [2, 4, 6]
    for count, saved in validations:
        resumed, _ = fit(trainer, data, ckpt_path=saved)
        assert whole.seen[:count] + resumed.seen == whole.seen, saved.name


@pytest.mark.filterwarnings("ignore")
def test_lightning_fetches_nothing_ahead(fit: Callable[..., tuple[_Recorder, _SaveEverywhere]]) -> None:
    _, saver = fit({"max_epochs": 1}, {"iterations": 5})
    for count, path in saver.saved:
        state = torch.load(path, weights_only=True)
        assert state["PromptDataModule"]["position"] == count
        assert state["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]["position"] == count

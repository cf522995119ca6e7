"""Checkpoints between iterations: written whole or not at all, and found again by ``--ckpt_path last``.

A checkpoint between two iterations needs no buffer of trajectories: position in the prompts, weights, optimizer and
counters are the whole state, and a run that resumes from it equals one that was never stopped.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_info

from llds.callbacks.checkpoint.healthy import HealthyCheckpoints
from llds.data import PromptLoader
from llds.errors import ConfigurationError, RankError, TooManyFailuresError
from llds.modules import SearchAgentModule
from llds.strategies import gather, together, world_size

_FOLDER = "checkpoints"
_PATTERN = "iteration-*.ckpt"
_PARTIAL = ".partial.ckpt"


class IterationCheckpoint(Checkpoint):
    """Saves every few iterations, at the end, and when the run stops between two updates.

    Beside the last ones it keeps the last healthy ones, to go back to when a run collapses: those of iterations at
    which `CollapseMonitor` said nothing, and after which it said nothing for some iterations more. So that there is one
    early, the first quiet iteration is saved in any case, and kept until another is known to be healthy.

    Args:
        every_n_iterations: Iterations between two checkpoints.
        keep_last: Number of checkpoints that are kept.
        keep_healthy: Number of healthy ones that are kept besides; two more are while it is not known whether they are.
        healthy_after: Quiet iterations that must follow one until it counts as healthy.

    Attributes:
        last_path: The checkpoint written last; empty before the first.
        healthy: Which are healthy.

    Raises:
        ConfigurationError: If a number is too small.
    """

    def __init__(
        self, every_n_iterations: int = 10, keep_last: int = 2, keep_healthy: int = 2, healthy_after: int = 5
    ) -> None:
        numbers = {"every_n_iterations": every_n_iterations, "keep_last": keep_last, "healthy_after": healthy_after}
        for name, value in numbers.items():
            if value < 1:
                raise ConfigurationError(f"Expected `IterationCheckpoint` to have {name} >= 1, got {value}.")
        if keep_healthy < 0:
            raise ConfigurationError(f"Expected `IterationCheckpoint` to have keep_healthy >= 0, got {keep_healthy}.")
        self.every_n_iterations = every_n_iterations
        self.keep_last = keep_last
        self.last_path = ""
        self.healthy = HealthyCheckpoints(healthy_after, keep_healthy)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: SearchAgentModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if a checkpoint is due."""
        is_quiet = pl_module.metrics.get("collapse/level") == 0  # without a monitor none is known to be healthy
        self.healthy.note(pl_module.iteration, is_quiet=is_quiet)
        # The first is saved too: many a run collapses before a checkpoint is due
        is_first = self.healthy.lacks(is_quiet=is_quiet)
        is_last = batch_idx + 1 == trainer.num_training_batches or trainer.should_stop
        if pl_module.iteration % self.every_n_iterations == 0 or is_last or is_first:
            self.healthy.saved(pl_module.iteration, is_quiet=is_quiet)
            self._save(trainer, pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save the state before the iteration under way, unless its updates have begun.

        With half an iteration's updates in the weights there is no such state: the last checkpoint holds. Nor is there
        anything to save before the first iteration has ended. Of several ranks all must save, or none can: they do
        where all have raised together.
        """
        if world_size() > 1 and not isinstance(exception, (RankError, TooManyFailuresError)):
            return
        if not isinstance(pl_module, SearchAgentModule) or pl_module.is_updating or not trainer.training:
            return
        loader = trainer.train_dataloader
        progress = trainer.fit_loop.epoch_loop.batch_progress
        # An iteration that was trained on but not completed has not reached the loggers: it is done again.
        if not isinstance(loader, PromptLoader) or not 0 < pl_module.iteration == progress.total.completed:
            return
        if loader.position > pl_module.iteration:
            # The batch under way was handed out but not trained on: it comes first in the resumed run.
            loader.rewind()
            progress.total.reset_on_restart()  # Lightning does so with `progress.current` alone
        self._save(trainer, pl_module)
        rank_zero_info(f"Saved the state after iteration {pl_module.iteration}: resume with --ckpt_path last")

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Let a finished run go on where it has got more iterations since: its last one is then no longer the last."""
        if trainer.state.fn == "fit":
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
            if progress["current"]["ready"] < _planned_iterations(trainer):
                progress["is_last_batch"] = False

    def take_healthy(self, trainer: pl.Trainer) -> Path | None:
        """The checkpoint to go back to (`HealthyCheckpoints.take`), None while there is none; every rank must call."""
        present = gather({path.name for path in list_checkpoints(trainer.default_root_dir)})[0]
        found = self.healthy.take({one for one in self.healthy.needed if _name(one) in present})
        return None if found is None else Path(trainer.default_root_dir) / _FOLDER / _name(found)

    def state_dict(self) -> dict[str, Any]:
        """Which checkpoints are healthy."""
        return self.healthy.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the run was."""
        self.healthy.load_state_dict(state_dict)

    def _save(self, trainer: pl.Trainer, pl_module: SearchAgentModule) -> None:
        folder = Path(trainer.default_root_dir) / _FOLDER
        path = folder / _name(pl_module.iteration)
        if trainer.is_global_zero:
            _remove(folder / _PARTIAL)
        together(lambda: None)  # no rank writes its part of a checkpoint into a folder that rank 0 is clearing
        trainer.save_checkpoint(folder / _PARTIAL)
        if trainer.is_global_zero:
            for written in (folder / _PARTIAL).rglob("*"):
                _flush(written)
            _flush(folder / _PARTIAL)
            if path.is_dir():  # unlike a file, a folder cannot be replaced by another
                _remove(path)
            os.replace(folder / _PARTIAL, path)
            _flush(folder)
            needed = {_name(iteration) for iteration in self.healthy.needed}
            for old in list_checkpoints(trainer.default_root_dir)[: -self.keep_last]:
                if old.name not in needed:
                    _remove(old)
        self.last_path = str(path)


def _name(iteration: int) -> str:
    return f"iteration-{iteration:06d}.ckpt"


def list_checkpoints(root: str | Path) -> list[Path]:
    """Checkpoints of a run's folder, oldest first."""
    return sorted((Path(root) / _FOLDER).glob(_PATTERN))


def _planned_iterations(trainer: pl.Trainer) -> int:
    """Iterations of an epoch, before Lightning has counted them."""
    iterations = len(trainer.datamodule.train_dataloader())  # type: ignore[attr-defined]
    limit = trainer.limit_train_batches
    return min(iterations, limit) if isinstance(limit, int) else int(iterations * limit)


def _remove(path: Path) -> None:
    """Remove a checkpoint, which is a file, or a folder where the ranks save parts of it."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Force a file, or the names in a folder, to disk: no power cut leaves a checkpoint that is there but empty."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

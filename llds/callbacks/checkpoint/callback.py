"""Checkpoints between iterations: written whole or not at all, and found again by ``--ckpt_path last``.

A checkpoint between two iterations needs no buffer of trajectories: position in the prompts, weights, optimizer and
counters are the whole state, and a run that resumes from it equals one that was never stopped.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from llds.callbacks.checkpoint.finite import what_is_not_finite
from llds.callbacks.checkpoint.folder import (
    checkpoint_path,
    clear_partial,
    list_checkpoints,
    partial_path,
    publish,
    remove_old,
)
from llds.callbacks.checkpoint.healthy import HealthyCheckpoints
from llds.callbacks.checkpoint.stopping import GracefulStop
from llds.data import PromptLoader
from llds.errors import CheckpointError, ConfigurationError, RankError, TooManyFailuresError
from llds.modules import SearchAgentModule
from llds.strategies import gather, rank, save_training_state, use_sealed_checkpoints, world_size


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
        max_failed_saves: Checkpoints in a row that cannot be written (disk full, gone or read-only) after which the run
            stops; before, each is a warning, and the next checkpoint is the next try.

    Attributes:
        last_path: The checkpoint written last; empty before the first.
        healthy: Which are healthy.
        failed_saves: Checkpoints since the last good one that could not be written.

    Raises:
        ConfigurationError: If a number is too small.
    """

    def __init__(
        self,
        every_n_iterations: int = 10,
        keep_last: int = 2,
        keep_healthy: int = 2,
        healthy_after: int = 5,
        max_failed_saves: int = 3,
    ) -> None:
        numbers = {
            "every_n_iterations": every_n_iterations,
            "keep_last": keep_last,
            "healthy_after": healthy_after,
            "max_failed_saves": max_failed_saves,
        }
        for name, value in numbers.items():
            if value < 1:
                raise ConfigurationError(f"Expected `IterationCheckpoint` to have {name} >= 1, got {value}.")
        if keep_healthy < 0:
            raise ConfigurationError(f"Expected `IterationCheckpoint` to have keep_healthy >= 0, got {keep_healthy}.")
        self.every_n_iterations = every_n_iterations
        self.keep_last = keep_last
        self.max_failed_saves = max_failed_saves
        self.failed_saves = 0
        self.last_path = ""
        self.healthy = HealthyCheckpoints(healthy_after, keep_healthy)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Have checkpoints written straight into the run's folder."""
        use_sealed_checkpoints(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the run's folder."""
        if trainer.is_global_zero:
            Path(trainer.default_root_dir).mkdir(parents=True, exist_ok=True)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: SearchAgentModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if a checkpoint is due."""
        is_quiet = pl_module.metrics.get("collapse/level") == 0  # without a monitor none is known to be healthy
        self.healthy.note(pl_module.iteration, is_quiet=is_quiet)
        # The first is saved too: many a run collapses before a checkpoint is due
        is_first = self.healthy.lacks(is_quiet=is_quiet)
        is_last = batch_idx + 1 == trainer.num_training_batches or trainer.should_stop
        is_due = pl_module.iteration % self.every_n_iterations == 0
        if is_due or is_last or is_first or _is_stopping(trainer):
            self.healthy.saved(pl_module.iteration, is_quiet=is_quiet)
            self._save(trainer, pl_module, is_last=is_last)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save the state before the iteration under way, unless its updates have begun.

        With half an iteration's updates in the weights there is no such state: the last checkpoint holds. Nor is there
        anything to save before the first iteration has ended. Of several ranks all must save, or none can: they do
        where all have raised together.
        """
        if isinstance(exception, CheckpointError) or (
            world_size() > 1 and not isinstance(exception, (RankError, TooManyFailuresError))
        ):
            return
        if not isinstance(pl_module, SearchAgentModule) or pl_module.is_updating or not trainer.training:
            return
        loader = trainer.train_dataloader
        progress = trainer.fit_loop.epoch_loop.batch_progress
        # An iteration that was trained on but not completed has not reached the loggers: it is done again.
        if not isinstance(loader, PromptLoader) or not 0 < pl_module.iteration == progress.total.completed:
            return
        is_saved = self.last_path == str(checkpoint_path(trainer.default_root_dir, pl_module.iteration))
        if is_saved or self._save_before(trainer, pl_module, loader):
            rank_zero_info(f"Saved the state after iteration {pl_module.iteration}: resume with --ckpt_path last")

    def _save_before(self, trainer: pl.Trainer, pl_module: SearchAgentModule, loader: PromptLoader) -> bool:
        """Save the state before the iteration under way; returns whether that went well."""
        if loader.position > pl_module.iteration:
            # The batch under way was handed out but not trained on: it comes first in the resumed run.
            loader.rewind()
            # Lightning does so with `progress.current` alone
            trainer.fit_loop.epoch_loop.batch_progress.total.reset_on_restart()
        try:
            self._save(trainer, pl_module, is_last=True)
        except CheckpointError as error:
            rank_zero_warn(str(error))
            return False
        return True

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
        root = trainer.default_root_dir
        present = gather({path.name for path in list_checkpoints(root)})[0]
        found = self.healthy.take({one for one in self.healthy.needed if checkpoint_path(root, one).name in present})
        return None if found is None else checkpoint_path(root, found)

    def state_dict(self) -> dict[str, Any]:
        """Which checkpoints are healthy."""
        return self.healthy.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the run was."""
        self.healthy.load_state_dict(state_dict)

    def _save(self, trainer: pl.Trainer, pl_module: SearchAgentModule, *, is_last: bool) -> None:
        """Save, or warn that it failed; every rank must call.

        Raises:
            CheckpointError: If the weights are not finite, or it failed once too often, or no other try will come.
        """
        good = f"The last good one: {self.last_path or (_newest(trainer) or 'none')}."
        if found := what_is_not_finite(pl_module):
            raise CheckpointError(
                f"Expected finite weights and optimizer states to save after iteration {pl_module.iteration}, got "
                f"{found} with NaN or infinity. The run stops, and nothing is written. {good} Go on from there with "
                "--ckpt_path last and a lower `model.optimization.learning_rate`."
            )
        path = checkpoint_path(trainer.default_root_dir, pl_module.iteration)
        found = self._write(trainer, path)
        if not found:
            self.failed_saves, self.last_path = 0, str(path)
            return
        self.failed_saves += 1
        message = f"Expected to write the checkpoint {path}, got: {found}. {good}"
        if is_last or self.failed_saves >= self.max_failed_saves:
            raise CheckpointError(
                f"{message} The run stops after {self.failed_saves} such failure(s) in a row (`max_failed_saves` "
                f"{self.max_failed_saves} of IterationCheckpoint). Make room, then --ckpt_path last goes on."
            )
        rank_zero_warn(
            f"{message} The run goes on and tries again at the next checkpoint; failure {self.failed_saves} of "
            f"{self.max_failed_saves} that stop it (`max_failed_saves` of IterationCheckpoint)."
        )

    def _write(self, trainer: pl.Trainer, path: Path) -> str:
        """Write a checkpoint in its place and remove old ones; returns what went wrong, the same on every rank."""
        root = trainer.default_root_dir
        # No rank writes its part of a checkpoint into a folder that rank 0 is clearing
        found = (
            _on_rank_zero(lambda: clear_partial(root))
            or save_training_state(trainer, partial_path(root))
            or _on_rank_zero(lambda: publish(root, path))
        )
        if rank() == 0 and not found:
            remove_old(root, self.keep_last, {checkpoint_path(root, one) for one in self.healthy.needed})
        return found


def _on_rank_zero(action: Callable[[], None]) -> str:
    """Do something on rank 0; returns on every rank what the disk said against it."""
    found = ""
    if rank() == 0:
        try:
            action()
        except OSError as error:
            found = str(error)
    return gather(found)[0]


def _newest(trainer: pl.Trainer) -> Path | None:
    return next(reversed(list_checkpoints(trainer.default_root_dir)), None)


def _is_stopping(trainer: pl.Trainer) -> bool:
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return any(isinstance(one, GracefulStop) and one.is_stopping for one in callbacks)


def _planned_iterations(trainer: pl.Trainer) -> int:
    """Iterations of an epoch, before Lightning has counted them."""
    iterations = len(trainer.datamodule.train_dataloader())  # type: ignore[attr-defined]
    limit = trainer.limit_train_batches
    return min(iterations, limit) if isinstance(limit, int) else int(iterations * limit)

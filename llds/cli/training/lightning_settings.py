"""Settings and callbacks of Lightning that cannot do in llds what they say, refused in llds's own words.

Lightning would tell a user to rewrite the training loop, or would say nothing while a callback never acts.
"""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.accelerators import MPSAccelerator
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from lightning.pytorch.utilities import rank_zero_info

from llds.errors import ConfigurationError

_NO_MPS = "Apple's GPU (MPS) has no float64, in which llds counts and adds up"
_OWN_LOOP = (StochasticWeightAveraging, GradientAccumulationScheduler, BatchSizeFinder, LearningRateFinder)


def check_lightning_settings(trainer: pl.Trainer, has_validations: bool) -> None:
    """Refuse what would be without effect in a training, or end it with a message that does not help.

    Args:
        trainer: As it was configured.
        has_validations: Whether the run validates between iterations.

    Raises:
        ConfigurationError: Naming the key of llds that does what was wanted.
    """
    clip: Any = trainer.gradient_clip_val
    if clip is not None and clip != 0:
        raise ConfigurationError(
            f"Expected `model.optimization.max_grad_norm` to set the clipping of gradients, got "
            f"`trainer.gradient_clip_val` {clip}. Set --model.optimization.max_grad_norm {clip} instead."
        )
    if trainer.accumulate_grad_batches != 1:
        raise ConfigurationError(
            "Expected `model.optimization.micro_batch_size` to say how many trajectories are computed at once, and "
            "`model.optimization.mini_batch_size` how many prompts make an optimizer step, got "
            f"`trainer.accumulate_grad_batches` {trainer.accumulate_grad_batches}. Leave it out: gradients of "
            "micro-batches are always accumulated to a mini-batch."
        )
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        _check_callback(callback, has_validations)


def choose_accelerator(asked: Any) -> Any:
    """Return the accelerator for what ``trainer.accelerator`` says: on a Mac `auto` is the CPU.

    Raises:
        ConfigurationError: If Apple's GPU was asked for.
    """
    if not MPSAccelerator.is_available() or asked not in ("auto", "gpu", "mps"):
        return asked
    if asked != "auto":
        raise ConfigurationError(
            f"Expected `trainer.accelerator` cpu on a Mac, got {asked}: {_NO_MPS}. Set --trainer.accelerator cpu."
        )
    rank_zero_info(f"`trainer.accelerator`: the CPU, as {_NO_MPS}.")
    return "cpu"


def _check_callback(callback: pl.Callback, has_validations: bool) -> None:
    name = type(callback).__name__
    if isinstance(callback, _OWN_LOOP):
        raise ConfigurationError(
            f"Expected `trainer.callbacks` that leave the optimizer steps to llds, got {name}, which makes its own. "
            "Leave it out; `model.optimization` has the learning rate, its schedule and the batch sizes."
        )
    if not isinstance(callback, EarlyStopping | ModelCheckpoint) or callback.monitor is None:
        return
    if not has_validations:
        other = {
            EarlyStopping: "To stop a run that collapses, put llds.callbacks.ladder.Stop into `collapse.ladder`",
            ModelCheckpoint: "llds.callbacks.IterationCheckpoint keeps checkpoints by iterations",
        }
        advice = next(text for kind, text in other.items() if isinstance(callback, kind))
        raise ConfigurationError(
            f"Expected validations between iterations for {name} (monitor: {callback.monitor}), which acts after them "
            f"alone, got none. {advice}; or validate: `data.validation` with `trainer.val_check_interval`."
        )

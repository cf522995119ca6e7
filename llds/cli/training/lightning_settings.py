"""Settings and callbacks of Lightning that cannot do in llds what they say, refused in llds's own words.

Lightning would tell a user to rewrite the training loop, or would say nothing while a callback never acts.
"""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.accelerators import CPUAccelerator, MPSAccelerator
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
    ModelPruning,
    SpikeDetection,
    StochasticWeightAveraging,
)
from lightning.pytorch.utilities import rank_zero_info

from llds.errors import ConfigurationError

_NO_MPS = "Apple's GPU (MPS) has no float64, in which llds counts and adds up"
_OWN_LOOP = (StochasticWeightAveraging, GradientAccumulationScheduler, BatchSizeFinder, LearningRateFinder)

_UNFIT: dict[type[pl.Callback], str] = {
    BaseFinetuning: "freezes and thaws parts that a module of its own has. `model.lora` trains adapters alone",
    ModelPruning: "prunes between batches what is trained and sampled from. Prune the exported policy",
    SpikeDetection: "wants the loss that a training step returns, and llds makes many steps of it. `collapse` watches",
}
"""Callbacks that end in a traceback, with what to use instead."""


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


def tell_of_idle_cores(trainer: pl.Trainer) -> None:
    """Say how to use a second core, where one process trains on a CPU that has more.

    The matrices of a small policy are too small to be shared out over threads.

    Args:
        trainer: As it was configured.
    """
    threads = torch.get_num_threads()
    if isinstance(trainer.accelerator, CPUAccelerator) and trainer.world_size == 1 and threads > 1:
        rank_zero_info(
            f"One process for {threads} CPU cores: where they are idle, a small policy trains 1.5 times as fast in "
            "two, --trainer.devices 2 (but for rounding the same first iteration, then a run of its own)."
        )


def _check_callback(callback: pl.Callback, has_validations: bool) -> None:
    name = type(callback).__name__
    if isinstance(callback, _OWN_LOOP):
        raise ConfigurationError(
            f"Expected `trainer.callbacks` that leave the optimizer steps to llds, got {name}, which makes its own. "
            "Leave it out; `model.optimization` has the learning rate, its schedule and the batch sizes."
        )
    for kind, reason in _UNFIT.items():
        if isinstance(callback, kind):
            raise ConfigurationError(
                f"Expected `trainer.callbacks` that work with llds's own training step, got {name}, which {reason}."
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

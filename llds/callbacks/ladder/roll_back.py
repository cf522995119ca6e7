"""The rung that goes back to the last healthy checkpoint.

What goes back: weights, optimizer states, the lagged anchor's snapshots, the detector. What goes on: the position in
the prompts and the number of the iteration, of which the seeds of sampling and mini-batches are made, so that neither
prompts nor trajectories come again; the schedule of the learning rate; what other rungs have changed; the reference.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl

from llds.callbacks.checkpoint.callback import IterationCheckpoint
from llds.callbacks.ladder.rung import Moment, Rung
from llds.callbacks.ladder.when import When
from llds.callbacks.rollout.callback import RolloutCallback
from llds.errors import ConfigurationError
from llds.modules import SearchAgentModule


class RollBack(Rung):
    """Goes back to the last healthy checkpoint, and on from there with other prompts and another sampling seed.

    Healthy is a checkpoint of an iteration at which the detector said nothing, and after which it said nothing for
    some iterations more (`IterationCheckpoint`, which keeps such ones). A second roll-back without a newer healthy
    checkpoint goes one further back, where there is one. While there is none it goes to the first of the run.

    Args:
        when: When it acts; by default at an alarm, at most three times, with at least ten iterations between two.

    Raises:
        ConfigurationError: Before training, if the run keeps no healthy checkpoints.
    """

    def __init__(self, when: When = When(cooldown=10, max_count=3)) -> None:
        super().__init__(when)

    def check(self, trainer: pl.Trainer, module: SearchAgentModule) -> None:
        """Refuse a run without healthy checkpoints."""
        checkpoints = _checkpoints(trainer)
        if checkpoints is None or checkpoints.healthy.keep < 1:
            raise ConfigurationError(
                "Expected `llds.callbacks.IterationCheckpoint` with keep_healthy >= 1 in `trainer.callbacks`, because "
                "`collapse.ladder` has a rung that rolls back, got none. Add it, or leave the rung out."
            )

    def act(self, moment: Moment) -> str | None:
        """Go back, if there is a healthy checkpoint."""
        checkpoints = _checkpoints(moment.trainer)
        assert checkpoints is not None  # noqa: S101 (checked before training)
        path = checkpoints.take_healthy(moment.trainer)
        if path is None:
            return None
        with _same_schedule(moment.trainer):
            moment.restored = moment.module.roll_back(path)
        for callback in moment.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, RolloutCallback):
                callback.weights_changed()
        return f"went back to the weights and optimizer of iteration {moment.restored['search_agent']['iteration']}"


def _checkpoints(trainer: pl.Trainer) -> IterationCheckpoint | None:
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return next((one for one in callbacks if isinstance(one, IterationCheckpoint)), None)


@contextmanager
def _same_schedule(trainer: pl.Trainer) -> Iterator[None]:
    """The learning rate stays what it is: its schedule is about the place in the run, which does not go back."""
    schedules = [copy.deepcopy(one.scheduler.state_dict()) for one in trainer.lr_scheduler_configs]
    rates = [(group["lr"], group["initial_lr"]) for group in _groups(trainer)]
    yield
    for one, state in zip(trainer.lr_scheduler_configs, schedules, strict=True):
        one.scheduler.load_state_dict(state)
    for group, (rate, initial) in zip(_groups(trainer), rates, strict=True):
        group["lr"], group["initial_lr"] = rate, initial


def _groups(trainer: pl.Trainer) -> list[dict[str, Any]]:
    return [group for optimizer in trainer.optimizers for group in optimizer.param_groups]

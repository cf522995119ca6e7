"""Rewards of trajectories, from a class that may be anybody's."""

import math
from dataclasses import dataclass
from numbers import Real

from llds.errors import ConfigurationError
from llds.rewards import Reward
from llds.types import Trajectory


@dataclass(frozen=True)
class Correctness:
    """When a trajectory is correct, where neither exact match nor the class of the reward is to say so."""

    at_least: float = 1.0
    """Reward from which a trajectory is correct."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.at_least):
            raise ConfigurationError(f"Expected `rollout.correct.at_least` to be a number, got {self.at_least}.")

    def holds(self, value: float) -> bool:
        """Return whether a reward is one of a correct trajectory."""
        return value >= self.at_least


def score(reward: Reward, trajectory: Trajectory, correct: Correctness | None = None) -> None:
    """Give a trajectory its reward and say whether it is correct; one that failed keeps reward 0 and is not correct.

    Args:
        reward: Scores a trajectory.
        trajectory: Its episode has ended; filled in place.
        correct: When it is correct; None asks the class.

    Raises:
        ConfigurationError: If the class raises, or gives what is no finite number; names it and the trajectory.
    """
    if trajectory.status == "failed":
        trajectory.reward, trajectory.is_correct = 0.0, False
        return
    where = f"{type(reward).__name__} (`rollout.reward`) for trajectory {trajectory.index}, {_question(trajectory)}"
    try:
        value = reward(trajectory)
        is_correct = correct.holds(value) if correct is not None else reward.is_correct(trajectory, value)
    except (Exception, SystemExit) as error:  # whatever a stranger's code does
        if isinstance(error, SystemExit) and type(error) is not SystemExit:
            raise  # a signal to this process, which is no doing of the class
        raise ConfigurationError(
            f"Expected a reward from {where}, got {type(error).__name__}: {error}. Correct the class."
        ) from error
    if not isinstance(value, Real) or not math.isfinite(value):
        raise ConfigurationError(
            f"Expected a finite number from {where}, got {value!r}. Return a number, such as 0.0, for every trajectory."
        )
    trajectory.reward, trajectory.is_correct = float(value), bool(is_correct)


def _question(trajectory: Trajectory) -> str:
    prompt = trajectory.prompt
    return f"question {prompt.prompt_id!r} ({prompt.origin or prompt.data_source})"

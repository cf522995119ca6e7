"""Rewards of trajectories, from a class that may be anybody's."""

import math
from numbers import Real

from llds.errors import ConfigurationError, said_by
from llds.files.rows import shorten
from llds.rewards import Reward
from llds.types import Trajectory


def score(reward: Reward, trajectory: Trajectory) -> float:
    """The reward of a trajectory; 0 for one that failed, which nothing is trained on.

    Args:
        reward: Scores a trajectory.
        trajectory: Its episode has ended.

    Raises:
        ConfigurationError: If the class raises, or gives what is no finite number; names it and the trajectory.
    """
    if trajectory.status == "failed":
        return 0.0
    where = f"{type(reward).__name__} (`rollout.reward`) for trajectory {trajectory.index}, {_question(trajectory)}"
    try:
        value = reward(trajectory)
    except (Exception, SystemExit) as error:  # whatever a stranger's code does
        if isinstance(error, SystemExit) and type(error) is not SystemExit:
            raise  # a signal to this process, which is no doing of the class
        raise ConfigurationError(f"Expected a reward from {where}, got {said_by(error)}. Correct the class.") from error
    if not _is_finite(value):
        raise ConfigurationError(
            f"Expected a finite number from {where}, got {_in_words(value)}. Return a number, such as 0.0, for every "
            "trajectory."
        )
    return float(value)


def _is_finite(value: object) -> bool:
    try:
        return isinstance(value, Real) and math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _in_words(value: object) -> str:
    try:
        return shorten(value)
    except Exception:  # of thousands of digits, or of a stranger's `__repr__`
        return f"{type(value).__name__} that cannot be shown"


def _question(trajectory: Trajectory) -> str:
    prompt = trajectory.prompt
    return f"question {prompt.prompt_id!r} ({prompt.origin or prompt.data_source})"

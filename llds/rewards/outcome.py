"""Rewards of the answer against the gold answers."""

from llds.rewards.answers import exact_match, substring_match, token_f1
from llds.rewards.base import Reward, Value
from llds.types import Trajectory


class ExactMatchReward(Reward):
    """1 for an answer that equals a gold answer after normalization, else 0; the reward of the paper."""

    def __call__(self, trajectory: Trajectory) -> float:
        """Return 1.0 or 0.0; a trajectory without an answer is worth 0."""
        return exact_match(trajectory.answer, trajectory.prompt.golden_answers)


class F1Reward(Reward):
    """Word overlap of the answer with the closest gold answer, between 0 and 1: a denser signal than exact match."""

    def __call__(self, trajectory: Trajectory) -> float:
        """Return the best F1; a trajectory without an answer is worth 0."""
        return token_f1(trajectory.answer, trajectory.prompt.golden_answers)


class SubstringReward(Reward):
    """1 for an answer that contains a gold answer after normalization, else 0. Long answers are cheap: limit them."""

    def __call__(self, trajectory: Trajectory) -> float:
        """Return 1.0 or 0.0; a trajectory without an answer is worth 0."""
        return substring_match(trajectory.answer, trajectory.prompt.golden_answers)


class EnvironmentReward(Reward):
    """What the trajectory's environment says (`model.environment`); does not apply where it says nothing.

    Args:
        correct_from: Reward from which a trajectory counts as correct; None is exact match of the answer.
    """

    def __init__(self, correct_from: float | None = 1.0) -> None:
        self.correct_from = correct_from

    def __call__(self, trajectory: Trajectory) -> Value:
        """Return what was noted at the end of the episode."""
        return trajectory.environment_reward

"""What a reward is, and the sum of several.

Stands after the rollout and before the advantages. Only what the policy itself sampled counts; text that was retrieved
earns nothing. Left out on purpose: deadlines, retries and what becomes of failures (`llds.rollout.scoring`).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType

from llds.errors import ConfigurationError
from llds.rewards.answers import exact_match
from llds.types import Trajectory

Value = float | None
"""A reward; None where it does not apply to the trajectory."""


class Reward(ABC):
    """Scores a finished trajectory. Subclass it and name the class in YAML to reward something else.

    What is rewarded is trained on; whether the trajectory is *correct* is another question, on which signals, detector,
    probes and report rest: a bonus for good form does not make a wrong answer right.

    `__call__` may be ``async``, for a reward that asks a server. What it raises decides what happens: `RewardFailure`
    and `OSError` (a lost connection, a deadline) are infrastructure, tried again, and then a failed trajectory, never a
    reward of 0; anything else is a bug, which ends the run.

    Attributes:
        correct_from: Reward from which a trajectory counts as correct, for a class that judges better than exact match
            does; None is exact match of the answer.
        part_weights: Of its parts by name; empty where it has none.
    """

    correct_from: float | None = None
    part_weights: Mapping[str, float] = MappingProxyType({})

    @abstractmethod
    def __call__(self, trajectory: Trajectory) -> Value | Awaitable[Value]:
        """Return the reward of a trajectory whose episode has ended."""

    def score_all(self, trajectories: Sequence[Trajectory]) -> Sequence[Value] | Awaitable[Sequence[Value]] | None:
        """Return the rewards of many trajectories at once; None, as here, to be called for each."""
        return None

    def score_turns(self, trajectory: Trajectory) -> Sequence[Value] | None:
        """Return a number for each action, None for one of which there is nothing to say; None, as here, for all.

        Estimators of advantages that tell actions apart read them; the reward of the trajectory stays what it is. Must
        not wait for anything.
        """
        return None

    def __str__(self) -> str:
        """What messages call it."""
        return type(self).__name__

    def attach(self, decode: Callable[[Sequence[int]], str]) -> None:  # noqa: B027 (optional hook)
        """Hear how token ids become text, before the first trajectory."""

    def is_correct(self, trajectory: Trajectory, value: float) -> bool:
        """Return whether a trajectory is correct.

        Args:
            trajectory: Its episode has ended.
            value: Its reward by this class.
        """
        if self.correct_from is not None:
            return value >= self.correct_from
        return exact_match(trajectory.answer, trajectory.prompt.golden_answers) == 1


class SumOfRewards(Reward):
    """The weighted sum of several rewards, each of which is logged by its name.

    A part that does not apply to a trajectory adds nothing. Correct is what matches exactly, unless `rollout.correct`
    names a part.

    Args:
        parts: Rewards by name.
        weights: Of parts by name; 1 for those that are not named.

    Raises:
        ConfigurationError: There are no parts, a weight is of none of them or no number, or a part is itself a sum.
    """

    def __init__(self, parts: dict[str, Reward], weights: dict[str, float] | None = None) -> None:
        given = weights or {}
        if not parts or any(isinstance(part, SumOfRewards) for part in parts.values()):
            raise ConfigurationError("Expected `rollout.reward.parts` to name rewards that are no sums, got others.")
        if unknown := sorted(set(given) - set(parts)):
            raise ConfigurationError(
                f"Expected `rollout.reward.weights` of the parts {sorted(parts)}, got one of {unknown[0]!r}. Rename it."
            )
        if not all(math.isfinite(weight) for weight in given.values()):
            raise ConfigurationError(f"Expected `rollout.reward.weights` to be numbers, got {given}.")
        self.parts = dict(parts)
        self.part_weights = {name: float(given.get(name, 1.0)) for name in parts}

    def attach(self, decode: Callable[[Sequence[int]], str]) -> None:
        """Tell the parts."""
        for part in self.parts.values():
            part.attach(decode)

    def __call__(self, trajectory: Trajectory) -> float:
        """Return the weighted sum of the parts that the trajectory was given."""
        return math.fsum(self.part_weights[name] * value for name, value in trajectory.rewards.items())

"""What an advantage estimator reads and returns, and the estimator of GRPO.

An estimator runs once per rollout iteration, on all of its trajectories, which every rank has: so what it compares them
with depends on neither mini-batches, micro-batches nor ranks.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from llds.losses.advantages.group import AdvantageScale, group_advantages
from llds.losses.masking import check_choice


@dataclass(frozen=True)
class AdvantageInputs:
    """The trajectories of an iteration.

    Attributes:
        rewards: ``[B]``.
        groups: Number of each trajectory's group, from 0, ``[B]`` long.
        is_correct: Whether the answer is right, ``[B]`` bool.
        input_ids: All tokens, ``[B, T]`` long; anything on padding.
        attention_mask: 1 on tokens, 0 on padding, ``[B, T]`` long.
        action_index: Turn number of each action token, -1 elsewhere, ``[B, T]`` long.
    """

    rewards: Tensor
    groups: Tensor
    is_correct: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    action_index: Tensor


class Advantages(ABC):
    """Weighs trajectories, or their tokens, by how good they were. Subclass it, and name it in ``model.advantages``."""

    @abstractmethod
    def __call__(self, inputs: AdvantageInputs) -> Tensor:
        """Compute the advantages of an iteration.

        Args:
            inputs: Its trajectories.

        Returns:
            ``[B]``, or ``[B, T]`` where tokens differ, in the dtype of the rewards, without gradient; anything off the
            actions.
        """


class GroupAdvantages(Advantages):
    """GRPO's advantages (see `group_advantages`).

    Args:
        scale: ``std`` divides by the group's standard deviation; ``none`` does not (Dr.GRPO).
        eps: Keeps the division finite; in units of the reward.
    """

    def __init__(self, scale: AdvantageScale = "std", eps: float = 1e-6) -> None:
        check_choice("scale", scale, AdvantageScale)
        self.scale: AdvantageScale = scale
        self.eps = eps

    def __call__(self, inputs: AdvantageInputs) -> Tensor:
        """Compare each reward with its group's."""
        return group_advantages(inputs.rewards, inputs.groups, scale=self.scale, eps=self.eps)

"""What an advantage estimator reads and returns, and the estimator of GRPO.

An estimator runs once per rollout iteration, on all of its trajectories, which every rank has: so what it compares them
with depends on neither mini-batches, micro-batches nor ranks.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from llds.errors import ConfigurationError
from llds.losses.advantages.group import AdvantageScale, group_advantages
from llds.losses.masking import check_choice


@dataclass(frozen=True)
class RewardParts:
    """What each part of the reward gave. A reward without parts is one part, ``reward``, of weight 1.

    Attributes:
        names: Of the parts, ``K`` of them; the same in every iteration of a run.
        weights: By which the reward adds them up, ``[K]`` fp32.
        values: Of each trajectory, ``[B, K]`` fp32; NaN where the part does not apply.
        turn_values: Of each action, ``[B, K, N]`` fp32 for ``N`` actions at most; NaN where the part says nothing of it
            (most speak of whole trajectories only), or the trajectory has no such action.
    """

    names: tuple[str, ...]
    weights: Tensor
    values: Tensor
    turn_values: Tensor

    def to(self, device: torch.device) -> "RewardParts":
        """Copy to a device."""
        moved = (one.to(device) for one in (self.weights, self.values, self.turn_values))
        return RewardParts(self.names, *moved)


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
        reward_parts: What each part of the reward gave; None where nobody has said.
    """

    rewards: Tensor
    groups: Tensor
    is_correct: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    action_index: Tensor
    reward_parts: RewardParts | None = None

    def parts(self, estimator: "Advantages") -> RewardParts:
        """The parts of the reward.

        Args:
            estimator: Who needs them.

        Raises:
            ConfigurationError: If nobody has said what they are.
        """
        if self.reward_parts is None:
            raise ConfigurationError(
                f"Expected the parts of the reward for {type(estimator).__name__} (`model.advantages`), got a batch "
                "without. Give `collate` the reward."
            )
        return self.reward_parts


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

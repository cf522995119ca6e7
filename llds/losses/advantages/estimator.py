"""What an advantage estimator reads and returns, and the estimator of GRPO.

An estimator runs once per rollout iteration, on all of its trajectories, which every rank has: so what it compares them
with depends on neither mini-batches, micro-batches nor ranks.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from llds.errors import ConfigurationError
from llds.losses.advantages.group import AdvantageScale, group_advantages
from llds.losses.masking import check_choice, check_positive


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

    def joined(self, name: str, turn_values: Tensor) -> "RewardParts":
        """The same with a part more, of weight 1, that speaks of actions only.

        Args:
            name: Of the part.
            turn_values: ``[B, N]``, NaN where it says nothing.
        """
        return RewardParts(
            (*self.names, name),
            torch.cat([self.weights, self.weights.new_ones(1)]),
            torch.cat([self.values, torch.full_like(self.values[:, :1], torch.nan)], dim=1),
            torch.cat([self.turn_values, turn_values.unsqueeze(1).to(self.turn_values)], dim=1),
        )

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
        influence: What raising each action token does to the right trajectories of its group (`influence_on`),
            ``[B, T]``; anything off the actions. None where no estimator reads it.
    """

    rewards: Tensor
    groups: Tensor
    is_correct: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    action_index: Tensor
    reward_parts: RewardParts | None = None
    influence: Tensor | None = None

    def need_influence(self, estimator: "Advantages") -> Tensor:
        """The influence of each token.

        Args:
            estimator: Who needs it.

        Raises:
            ConfigurationError: If there is none.
        """
        if self.influence is None:
            raise ConfigurationError(
                f"Expected `influence` for {type(estimator).__name__} (`model.advantages`), got None: this batch was "
                "made without. Let `SearchAgentModule.prepare` make it, or give it."
            )
        return self.influence

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
    """Weighs trajectories, or their tokens, by how good they were. Subclass it, and name it in ``model.advantages``.

    Attributes:
        reads_influence: Whether it needs the influence of tokens, which costs a forward pass.
        answer_opening: Text before an answer, where it needs the information gain of actions, which costs a scoring of
            the gold answer after each; None: it does not.
        is_by_token: Whether it gives ``[B, T]``, which a loss with one term per trajectory cannot take.
        learns_from_ties: Whether groups of equal rewards have advantages, too.
    """

    reads_influence: bool = False
    answer_opening: str | None = None
    is_by_token: bool = False
    learns_from_ties: bool = False

    def check_reward(self, speaks: Mapping[str, float | None]) -> None:  # noqa: B027 (most go with any)
        """Refuse a reward that makes nothing of it, before the run begins.

        Args:
            speaks: Of each part of the reward by its name, its weight if it says something of single actions; else
                None.

        Raises:
            ConfigurationError: If this estimator needs what the reward does not say.
        """

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
        check_positive("GroupAdvantages.eps", eps)
        self.scale: AdvantageScale = scale
        self.eps = eps

    def __call__(self, inputs: AdvantageInputs) -> Tensor:
        """Compare each reward with its group's."""
        return group_advantages(inputs.rewards, inputs.groups, scale=self.scale, eps=self.eps)


class Reweighed(Advantages):
    """Changes the advantages of another estimator, and reads what that reads.

    Args:
        of: The other estimator; None: GRPO's.
    """

    def __init__(self, of: Advantages | None) -> None:
        self.of = of or GroupAdvantages()
        self.reads_influence = self.reads_influence or self.of.reads_influence
        self.answer_opening = self.of.answer_opening
        self.is_by_token = self.is_by_token or self.of.is_by_token
        self.learns_from_ties = self.of.learns_from_ties

    def check_reward(self, speaks: Mapping[str, float | None]) -> None:
        """Ask the other."""
        self.of.check_reward(speaks)

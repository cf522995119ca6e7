r"""Advantages from the outcome alone: RLOO, REINFORCE++, the sign of the outcome (W-REINFORCE), weaker negatives."""

import math

import torch
from torch import Tensor

from llds.errors import ConfigurationError
from llds.losses.advantages.estimator import AdvantageInputs, Advantages, Reweighed
from llds.losses.advantages.group import group_advantages, group_sum
from llds.losses.masking import action_mask

_WHITENING_EPS = 1e-8
"""Keeps the division finite; as in verl."""


class RLOOAdvantages(Advantages):
    r"""RLOO: the reward less the mean of the others of the group.

    .. math::
        A_i = r_i - \frac{1}{G - 1} \sum_{j \ne i} r_j

    arXiv 2402.14740. It is Dr.GRPO's advantage times G / (G - 1): the baseline does not know the reward that it
    is compared with. Acts on advantages.
    """

    def __call__(self, inputs: AdvantageInputs) -> Tensor:
        """Leave one out."""
        centered = group_advantages(inputs.rewards.double(), inputs.groups, scale="none")
        size = group_sum(torch.ones_like(centered), inputs.groups)
        return (centered * size / (size - 1)).to(inputs.rewards.dtype)


class ReinforcePlusPlusAdvantages(Advantages):
    r"""REINFORCE++: rewards whitened over all action tokens of the iteration, not over a group.

    .. math::
        A_{i,k} = \frac{R_{i,k} - \mathrm{mean}(R)}{\sqrt{\mathrm{var}(R) + 10^{-8}}}, \qquad
        R_{i,k} = \gamma^{n_i - k} r_i

    arXiv 2501.03262. :math:`k` counts the :math:`n_i` action tokens of trajectory :math:`i` from 1;
    observations cost no discount. With a baseline :math:`R` is the reward less the mean of its group. Mean and variance
    (ddof 1) are over action tokens, so that a long trajectory counts more. Acts on advantages, ``[B, T]`` where the
    discount is not 1.

    Args:
        baseline: Whether the mean of the group is taken off first (REINFORCE++-baseline).
        discount: :math:`\gamma`, in (0, 1]; 1 with a baseline.

    Note:
        No KL in the reward, which the paper adds: use ``model.kl_penalty``.
    """

    def __init__(self, baseline: bool = False, discount: float = 1.0) -> None:
        if not 0 < discount <= 1 or (baseline and discount != 1):
            raise ConfigurationError(
                f"Expected `discount` in (0, 1], and 1 with a baseline, got {discount} with `baseline` {baseline}."
            )
        self.baseline = baseline
        self.discount = discount
        self.is_by_token = discount != 1
        self.learns_from_ties = not baseline

    def __call__(self, inputs: AdvantageInputs) -> Tensor:
        """Whiten returns."""
        mask = action_mask(inputs.action_index)
        rewards = inputs.rewards.double()
        if self.baseline:
            rewards = group_advantages(rewards, inputs.groups, scale="none")
        tokens = mask.double()
        to_go = tokens.sum(1, keepdim=True) - tokens.cumsum(1)  # action tokens after each, [B, T]
        returns = rewards.unsqueeze(1) * self.discount**to_go
        whitened = whiten(returns, tokens)
        if self.discount == 1:
            whitened = whitened[:, 0]
        return whitened.to(inputs.rewards.dtype)


def whiten(values: Tensor, tokens: Tensor) -> Tensor:
    """Less the mean, over the standard deviation (ddof 1), both over action tokens.

    Args:
        values: ``[B, T]`` or ``[B, 1]``, float64.
        tokens: 1 on action tokens, 0 elsewhere, ``[B, T]`` float64.
    """
    count = tokens.sum()
    mean = (values * tokens).sum() / count.clamp(min=1)
    variance = ((values - mean) ** 2 * tokens).sum() / (count - 1).clamp(min=1)
    return (values - mean) / (variance + _WHITENING_EPS).sqrt()


class SignedAdvantages(Advantages):
    r"""The sign of the outcome, right and wrong weighed apart: PSR, NSR, W-REINFORCE.

    .. math::
        A_i = \lambda\, \mathbb{1}[i \text{ is right}] - \nu\, \mathbb{1}[i \text{ is wrong}]

    arXiv 2506.01347: W-REINFORCE has :math:`\lambda` = 0.1 and :math:`\nu` = 1, PSR 1 and 0, NSR 0 and
    1. No baseline: trajectories of a group that are all right, or all wrong, count too. Acts on advantages.

    Args:
        right: :math:`\lambda`, not negative.
        wrong: :math:`\nu`, not negative.
    """

    learns_from_ties = True

    def __init__(self, right: float = 0.1, wrong: float = 1.0) -> None:
        if not (right >= 0 and wrong >= 0 and 0 < right + wrong < math.inf):
            raise ConfigurationError(
                f"Expected weights >= 0 of SignedAdvantages, not both 0, got `right` {right} and `wrong` {wrong}."
            )
        self.right, self.wrong = right, wrong

    def __call__(self, inputs: AdvantageInputs) -> Tensor:
        """Weigh right and wrong."""
        weights = torch.tensor([-self.wrong, self.right], dtype=inputs.rewards.dtype, device=inputs.rewards.device)
        return weights[inputs.is_correct.long()]


class NegativeWeight(Reweighed):
    r"""Negative advantages times a number below 1: less is unlearned, as much is learned.

    .. math::
        A'_i = A_i \text{ for } A_i \ge 0, \qquad A'_i = \eta A_i \text{ for } A_i < 0

    No paper of its own; 0 is the filter of RAFT++ and WAPO (arXiv 2504.11343, 2606.16154). Acts on the advantages of
    another estimator.

    Args:
        weight: :math:`\eta`, in [0, 1].
        of: The other estimator; null: GRPO's.
    """

    def __init__(self, weight: float = 0.5, of: Advantages | None = None) -> None:
        if not 0 <= weight <= 1:
            raise ConfigurationError(f"Expected `weight` of NegativeWeight in [0, 1], got {weight}.")
        self.weight = weight
        super().__init__(of)

    def __call__(self, inputs: AdvantageInputs) -> Tensor:
        """Weigh the other's."""
        values = self.of(inputs)
        return torch.where(values < 0, self.weight * values, values)

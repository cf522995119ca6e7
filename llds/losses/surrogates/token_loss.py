"""What policy losses with a ratio per token share: reading, masking, the ratio, weights, penalties, averaging.

A loss of this kind says in `TokenLoss.surrogate` what it maximizes on a token, and nothing else.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from llds.errors import ConfigurationError
from llds.losses.kl import k3
from llds.losses.loss import Loss, LossBatch, LossInputs, LossOutput
from llds.losses.masking import (
    PolicyAggregation,
    action_mask,
    average,
    check_aggregation,
    check_positive,
    check_shapes,
    count,
    masked,
    masked_mean,
    per_token,
)

_LARGEST = 20.0
"""Log-ratio beyond which ratios count as its exponential, as in verl: far above every bound here."""


@dataclass(frozen=True)
class Tokens:
    """The action tokens of a micro-batch; every tensor is ``[B, T]``, and 0 on tokens that do not count.

    Attributes:
        log_probs: Under the policy; the only tensor that gradients flow to.
        old_log_probs: Under the old policy.
        behavior_log_probs: Under the behavior policy; None where the batch has none.
        advantages: Also ``[B, 1]``.
        index: Turn number of each action token, -1 on tokens that do not count.
    """

    log_probs: Tensor
    old_log_probs: Tensor
    behavior_log_probs: Tensor | None
    advantages: Tensor
    index: Tensor

    @property
    def log_ratio(self) -> Tensor:
        """Of the policy to the old policy."""
        return self.log_probs - self.old_log_probs


class TokenLoss(Loss):
    """A policy loss with a term for each action token.

    Args:
        aggregation: ``trajectory``: mean over each trajectory's action tokens, then over trajectories. ``token``: one
            mean over all action tokens of the mini-batch. ``constant``: sum over action tokens, divided by
            trajectories times ``constant_tokens``.
        constant_tokens: Tokens that each trajectory counts as, with ``constant`` only.
        coefficient: Weight of the term in the objective.
    """

    name = "policy"

    def __init__(
        self,
        aggregation: PolicyAggregation = "trajectory",
        constant_tokens: int | None = None,
        coefficient: float = 1.0,
    ) -> None:
        super().__init__(coefficient)
        check_aggregation(aggregation, constant_tokens)
        self.aggregation: PolicyAggregation = aggregation
        self.constant_tokens = constant_tokens

    @abstractmethod
    def surrogate(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """What is maximized on each token, and where it is cut.

        Args:
            tokens: Of a micro-batch.

        Returns:
            ``[B, T]``, finite where the log-probs are, anything off the tokens; and ``[B, T]`` bool.
        """

    def __call__(self, inputs: LossInputs, denominator: Tensor | None = None) -> LossOutput:
        """Compute the loss of a micro-batch."""
        index, weights = inputs.policy_index, inputs.loss_weights
        check_shapes(
            index,
            log_probs=inputs.log_probs,
            old_log_probs=inputs.old_log_probs,
            token_advantages=inputs.advantages,
        )
        mask = action_mask(index)
        live = mask if weights is None else mask & (weights != 0)  # no 0 * inf, and no 0 * NaN
        behavior = inputs.behavior_log_probs
        tokens = Tokens(
            masked(inputs.log_probs, live),
            masked(inputs.old_log_probs.detach(), live),
            None if behavior is None else masked(behavior.detach(), live).to(inputs.log_probs.dtype),
            per_token(inputs.advantages, mask),
            index.masked_fill(~live, -1),
        )
        values, is_cut = self.surrogate(tokens)
        if weights is not None:
            values = values * masked(weights.detach(), live)
        values = values - _penalty(inputs, tokens, live)
        if denominator is None:
            denominator = self.denominator(inputs)
        loss = -average(masked(values, live), mask, self.aggregation, denominator)
        return LossOutput(loss, ratio_metrics(tokens.log_ratio, is_cut, live, tokens.advantages))

    def denominator(self, batch: LossBatch) -> Tensor:
        """Count the trajectories with action tokens, or the action tokens."""
        return count(action_mask(batch.policy_index), self.aggregation, constant_tokens=self.constant_tokens)


def _penalty(inputs: LossInputs, tokens: Tokens, live: Tensor) -> Tensor:
    """What selections charge for each token: its drift, its distance below a target; 0 where they say nothing."""
    total = torch.zeros_like(tokens.log_probs)
    if inputs.loss_penalties is not None:
        total = total + masked(inputs.loss_penalties.detach(), live) * tokens.log_ratio.abs()
    if inputs.loss_pulls is not None:
        pulled = live & (inputs.loss_pulls != 0)
        below = masked(inputs.need("old_proxy", inputs).detach().to(total.dtype) - tokens.log_probs, pulled)
        total = total + masked(inputs.loss_pulls.detach(), pulled) * k3(below.clamp(min=0))
    return total


def refuse_penalties(inputs: LossInputs, loss: Loss) -> None:
    """Refuse penalties of tokens for a loss that has no term for each.

    Raises:
        ConfigurationError: Naming the loss.
    """
    if inputs.loss_penalties is not None or inputs.loss_pulls is not None:
        raise ConfigurationError(
            f"Expected a loss with a term per token for KLCov or LpReg, got {type(loss).__name__}. Use GRPOLoss."
        )


def trajectory_weight(weights: Tensor | None, mask: Tensor) -> Tensor:
    """What a loss with one term per trajectory multiplies it by, ``[B]``: the mean weight of its tokens.

    Args:
        weights: ``[B, T]``; None: all 1.
        mask: Action tokens, ``[B, T]`` bool.
    """
    if weights is None:
        return mask.any(1)
    return masked(weights.detach(), mask).sum(1) / mask.sum(1).clamp(min=1)


def log_ratio(log_probs: Tensor, old_log_probs: Tensor, mask: Tensor) -> Tensor:
    """Log of the likelihood ratio of the policy to the old policy, 0 off the mask, ``[B, T]``; with gradient."""
    return masked(log_probs, mask) - masked(old_log_probs.detach(), mask)


def finite_ratio(log_ratio: Tensor) -> Tensor:
    """The likelihood ratio, for losses that do not clip before the exponential; no gradient beyond `_LARGEST`."""
    return log_ratio.clamp(max=_LARGEST).exp()


def clipped_surrogate(
    log_ratio: Tensor, advantage: Tensor, clip_low: float, clip_high: float, max_ratio: float | None
) -> tuple[Tensor, Tensor]:
    """``min(ratio * A, clip(ratio) * A)`` and where the clip binds.

    The branch is chosen before the exponential, so that an overflowing ratio that is clipped passes no ``0 * inf``.
    """
    if max_ratio is not None:
        log_ratio = log_ratio.clamp(max=math.log(max_ratio))
    ratio = log_ratio.detach().exp()
    is_clipped = torch.where(advantage >= 0, ratio > 1 + clip_high, ratio < 1 - clip_low)
    bound = torch.where(advantage >= 0, torch.full_like(advantage, 1 + clip_high), 1 - clip_low)
    free = torch.where(is_clipped, torch.zeros_like(log_ratio), log_ratio).exp() * advantage
    return torch.where(is_clipped, bound * advantage, free), is_clipped


def ratio_metrics(log_ratio: Tensor, is_clipped: Tensor, mask: Tensor, advantage: Tensor) -> dict[str, Tensor]:
    """Detached scalars about the ratios on a mask; a share of nothing is 0."""
    is_clipped = is_clipped & (advantage != 0)  # without an advantage there is nothing to clip
    clipped = {
        f"policy/clip_share_{name}": masked_mean(is_clipped.to(log_ratio.dtype), mask & sign)
        for name, sign in (("positive", advantage > 0), ("negative", advantage < 0))
    }
    return {
        "policy/clip_share": masked_mean(is_clipped.to(log_ratio.dtype), mask),
        **clipped,
        "policy/likelihood_displacement": masked_mean(log_ratio, mask),
    }


def check_clip(clip_low: float, clip_high: float, max_ratio: float | None) -> None:
    """Refuse ranges that cannot bind."""
    if not 0 < clip_low <= 1:
        raise ConfigurationError(f"Expected `clip_low` in (0, 1], got {clip_low}. The usual value is 0.2.")
    check_positive("clip_high", clip_high)
    if max_ratio is not None and not max_ratio > 1 + clip_high:
        raise ConfigurationError(f"Expected `max_ratio` above 1 + clip_high = {1 + clip_high}, got {max_ratio}.")

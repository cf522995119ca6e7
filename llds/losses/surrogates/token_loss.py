"""What policy losses with a ratio per token share: reading, masking, weights of tokens, averaging, metrics.

A loss of this kind says in `TokenLoss.surrogate` what it maximizes on a token, and nothing else.
"""

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from llds.losses.loss import Loss, LossBatch, LossInputs, LossOutput
from llds.losses.masking import (
    PolicyAggregation,
    action_mask,
    average,
    check_aggregation,
    check_shapes,
    count,
    masked,
    per_token,
)
from llds.losses.policy_gradient import ratio_metrics


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
        index, weights, penalties = inputs.policy_index, inputs.loss_weights, inputs.loss_penalties
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
        if penalties is not None:
            values = values - masked(penalties.detach(), live) * tokens.log_ratio.abs()
        if denominator is None:
            denominator = self.denominator(inputs)
        loss = -average(masked(values, live), mask, self.aggregation, denominator)
        return LossOutput(loss, ratio_metrics(tokens.log_ratio, is_cut, live, tokens.advantages))

    def denominator(self, batch: LossBatch) -> Tensor:
        """Count the trajectories with action tokens, or the action tokens."""
        return count(action_mask(batch.policy_index), self.aggregation, constant_tokens=self.constant_tokens)

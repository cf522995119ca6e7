r"""Policy losses whose tokens share a ratio, other than GSPO's: one per action, and GMPO's geometric mean."""

import torch
from torch import Tensor

from llds.losses.loss import Loss, LossBatch, LossInputs, LossOutput
from llds.losses.masking import (
    PolicyAggregation,
    action_mask,
    check_positive,
    check_shapes,
    count,
    divide,
    masked,
    sum_by_action,
)
from llds.losses.surrogates.token_loss import (
    TokenLoss,
    Tokens,
    check_clip,
    clipped_surrogate,
    log_ratio,
    ratio_metrics,
    refuse_penalties,
    trajectory_weight,
)


class TurnRatioLoss(TokenLoss):
    r"""GSPO's ratio by action: all tokens of an action share the exponential of their mean log-ratio.

    .. math::
        L = -\min\big(s_{i,t} A, \mathrm{clip}(s_{i,t}, 1 - \epsilon_l, 1 + \epsilon_h) A\big), \qquad
        s_{i,t} = \exp\Big(\frac{1}{|y_{i,t}|} \sum_k \ln \frac{\pi_\theta(y_{i,t,k})}{\pi_{old}(y_{i,t,k})}\Big)

    arXiv 2507.18071 (GSPO) with the sum over the tokens of action :math:`t`; a ratio per turn is the idea of arXiv
    2601.04767 (AT2PO). Averaged over tokens, so that an action counts by its length. It stands between GRPO (a ratio
    per token) and GSPO (one per trajectory), and is the grain of LLDS' action gate. Acts on the policy loss.

    Args:
        clip_low: :math:`\epsilon_l`, in (0, 1].
        clip_high: :math:`\epsilon_h`, above 0.
        aggregation: See `TokenLoss`.
        constant_tokens: See `TokenLoss`.
        coefficient: Weight of the term in the objective.

    Note:
        A selection that leaves out tokens of an action leaves them out of its ratio, too.
    """

    def __init__(
        self,
        clip_low: float = 3e-4,
        clip_high: float = 4e-4,
        aggregation: PolicyAggregation = "trajectory",
        constant_tokens: int | None = None,
        coefficient: float = 1.0,
    ) -> None:
        super().__init__(aggregation, constant_tokens, coefficient)
        check_clip(clip_low, clip_high, None)
        self.clip_low, self.clip_high = clip_low, clip_high

    def surrogate(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """GRPO's, with the ratio of the action."""
        lengths = sum_by_action(action_mask(tokens.index).to(tokens.log_probs.dtype), tokens.index)
        means = sum_by_action(tokens.log_ratio, tokens.index) / lengths.clamp(min=1)  # [B, K]
        shared = masked(means.gather(1, tokens.index.clamp(min=0)), action_mask(tokens.index))
        return clipped_surrogate(shared, tokens.advantages, self.clip_low, self.clip_high, None)


class GMPOLoss(Loss):
    r"""GMPO: the geometric mean of clipped token ratios, in place of the arithmetic mean of surrogates.

    .. math::
        L = -\frac{1}{G} \sum_i A_i \exp\Big(\frac{1}{|y_i|} \sum_k d_{i,k}\Big), \qquad
        d_{i,k} = s\, \min\big(s \ln \gamma_{i,k},\; s\, \mathrm{clamp}(\ln \gamma_{i,k}, -\epsilon_l, \epsilon_h)\big)

    arXiv 2507.20673; :math:`s` is the sign of :math:`A_i`. The clip is in log space, token by token. Acts on the policy
    loss; takes ``[B]`` advantages.

    Args:
        clip_low: :math:`\epsilon_l`, above 0.
        clip_high: :math:`\epsilon_h`, above 0.
        coefficient: Weight of the term in the objective.

    Note:
        Weights of tokens (selections, importance correction) multiply a trajectory's term by their mean.
    """

    name = "policy"
    is_by_token = False

    def __init__(self, clip_low: float = 0.4, clip_high: float = 0.4, coefficient: float = 1.0) -> None:
        super().__init__(coefficient)
        check_positive("GMPOLoss.clip_low", clip_low)
        check_positive("GMPOLoss.clip_high", clip_high)
        self.clip_low, self.clip_high = clip_low, clip_high

    def __call__(self, inputs: LossInputs, denominator: Tensor | None = None) -> LossOutput:
        """Compute the loss of a micro-batch."""
        refuse_penalties(inputs, self)
        index = inputs.policy_index
        check_shapes(index, log_probs=inputs.log_probs, advantages=inputs.advantages)
        mask = action_mask(index)
        moved = log_ratio(inputs.log_probs, inputs.old_log_probs, mask)
        advantage = torch.where(mask.any(1), inputs.advantages.detach(), 0)
        sign = advantage.sign().unsqueeze(1)
        bounded = moved.clamp(-self.clip_low, self.clip_high)
        kept = sign * torch.minimum(sign * moved, sign * bounded)
        length = mask.sum(1).clamp(min=1)
        weight = trajectory_weight(inputs.loss_weights, mask)
        surrogate = torch.where(weight > 0, kept.sum(1) / length, 0).exp() * advantage * weight
        if denominator is None:
            denominator = self.denominator(inputs)
        is_cut = kept.detach() != moved.detach()
        metrics = ratio_metrics(moved, is_cut & (sign != 0), mask, advantage.unsqueeze(1))
        return LossOutput(-divide(surrogate.sum(), denominator), metrics)

    def denominator(self, batch: LossBatch) -> Tensor:
        """Count the trajectories with action tokens."""
        return count(action_mask(batch.policy_index), "trajectory")

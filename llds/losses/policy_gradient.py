r"""The policy-gradient losses: GRPO with the observation mask, and GSPO.

Left out on purpose: the KL term (`llds.losses.kl`), the regularizer (`llds.losses.llds`), other surrogates
(`llds.losses.surrogates`), and where weights of tokens come from (`llds.losses.selections`).
"""

import torch
from torch import Tensor

from llds.losses.loss import Loss, LossBatch, LossInputs, LossOutput
from llds.losses.masking import PolicyAggregation, action_mask, check_shapes, count, divide
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


def grpo_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    action_index: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    aggregation: PolicyAggregation = "trajectory",
    constant_tokens: int | None = None,
    max_ratio: float | None = None,
    weights: Tensor | None = None,
    penalties: Tensor | None = None,
    denominator: float | Tensor | None = None,
) -> LossOutput:
    r"""GRPO's clipped surrogate on the action tokens, negated.

    .. math::
        L = -\frac{1}{G} \sum_i \frac{1}{|y_i|} \sum_k
            \min\big(\gamma_{i,k} A_i,\; \mathrm{clip}(\gamma_{i,k}, 1 - \epsilon_l, 1 + \epsilon_h) A_i\big),
        \qquad \gamma_{i,k} = \frac{\pi_\theta(y_{i,k})}{\pi_{old}(y_{i,k})}

    arXiv 2512.04220 v2, eq. 1. :math:`i` counts the :math:`G` trajectories that have action tokens, :math:`k` the
    :math:`|y_i|` action tokens of one. Gradients flow to `log_probs` only, on action tokens only, and not through
    clipped ones. An empty mask gives exactly 0 with a zero gradient.

    Args:
        log_probs: ``[B, T]``; anything off the actions.
        old_log_probs: Under the old policy, ``[B, T]``; anything off the actions.
        advantages: :math:`A`, ``[B]``, or ``[B, T]`` where tokens differ.
        action_index: Turn number of each action token, -1 elsewhere, ``[B, T]`` long.
        clip_low: :math:`\epsilon_l`, in (0, 1].
        clip_high: :math:`\epsilon_h`, above 0.
        aggregation: ``trajectory`` as above; ``token``: one mean over all action tokens; ``constant``: the sum over
            action tokens, divided by the trajectories times `constant_tokens` (Dr.GRPO, arXiv 2503.20783).
        constant_tokens: Read with ``constant`` only, and needed there.
        max_ratio: Largest ratio, beyond which a token keeps this value and passes no gradient; None: as is. It binds
            on a negative advantage alone: the dual clip (arXiv 1912.09729), :math:`\max(\cdot, c A)` for
            :math:`A < 0`.
        weights: Multiply each token's surrogate (`importance_weights`, selections), ``[B, T]``; None: all 1.
        penalties: Coefficient of the absolute log-ratio on each token (`KLCov`), ``[B, T]``; None: all 0.
        denominator: Global count (what `count` gives); None: of these tensors.

    Returns:
        The loss and ``policy/clip_share`` (share of tokens whose surrogate is clipped), the same of tokens with a
        positive or negative advantage (``policy/clip_share_{positive,negative}``, 0 without any) and
        ``policy/likelihood_displacement`` (mean of ``log_probs - old_log_probs``, in nats).

    Note:
        The paper averages per trajectory and takes the ratio as is. The authors' code has ``aggregation="token"`` (per
        micro-batch; here over the whole mini-batch) and ``max_ratio=100``.
    """
    inputs = LossInputs(
        log_probs=log_probs,
        old_log_probs=old_log_probs,
        anchor_log_probs=old_log_probs,
        advantages=advantages,
        action_index=action_index,
        loss_weights=weights,
        loss_penalties=penalties,
    )
    loss = GRPOLoss(clip_low, clip_high, aggregation, max_ratio, constant_tokens=constant_tokens)
    return loss(inputs, None if denominator is None else torch.as_tensor(denominator))


def gspo_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    action_index: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    weights: Tensor | None = None,
    denominator: float | Tensor | None = None,
) -> LossOutput:
    r"""GSPO's clipped surrogate, with one ratio per trajectory, negated.

    .. math::
        L = -\frac{1}{G} \sum_i \min\big(s_i A_i,\; \mathrm{clip}(s_i, 1 - \epsilon_l, 1 + \epsilon_h) A_i\big),
        \qquad s_i = \exp\Big(\frac{1}{|y_i|} \sum_k \ln \frac{\pi_\theta(y_{i,k})}{\pi_{old}(y_{i,k})}\Big)

    arXiv 2507.18071, eq. 5 and 7; combined with LLDS in arXiv 2512.04220 v2. Symbols as in `grpo_loss`. Gradients
    flow to `log_probs` only, on action tokens only. An empty mask gives exactly 0 with a zero gradient.

    Args:
        log_probs: ``[B, T]``; anything off the actions.
        old_log_probs: Under the old policy, ``[B, T]``; anything off the actions.
        advantages: :math:`A`, ``[B]``.
        action_index: Turn number of each action token, -1 elsewhere, ``[B, T]`` long.
        clip_low: :math:`\epsilon_l`, in (0, 1]. GSPO's own range is 3e-4.
        clip_high: :math:`\epsilon_h`, above 0. GSPO's own range is 4e-4.
        weights: Multiply each trajectory's surrogate by the mean over its action tokens, ``[B, T]``; None: all 1.
        denominator: Global number of trajectories with action tokens; None: of these tensors.

    Returns:
        The loss and ``policy/clip_share`` (of trajectories),
        ``policy/clip_share_{positive,negative}`` (of those with such an advantage, 0 without any) and
        ``policy/likelihood_displacement`` (mean over trajectories of their mean log-ratio, in nats).
    """
    check_clip(clip_low, clip_high, None)
    check_shapes(action_index, log_probs=log_probs, old_log_probs=old_log_probs, advantages=advantages)
    mask = action_mask(action_index)
    has_action = mask.any(1)
    mean_log_ratio = log_ratio(log_probs, old_log_probs, mask).sum(1) / mask.sum(1).clamp(min=1)  # [B]
    advantage = torch.where(has_action, advantages.detach(), 0)
    weight = trajectory_weight(weights, mask)
    live_log_ratio = torch.where(weight > 0, mean_log_ratio, 0)
    surrogate, is_clipped = clipped_surrogate(live_log_ratio, advantage, clip_low, clip_high, None)
    surrogate = surrogate * weight
    if denominator is None:
        denominator = count(mask, "trajectory")
    loss = -divide(surrogate.sum(), denominator)
    return LossOutput(loss, ratio_metrics(mean_log_ratio, is_clipped, has_action, advantage))


class GRPOLoss(TokenLoss):
    """GRPO's clipped surrogate (see `grpo_loss`).

    Args:
        clip_low: How far below 1 the ratio may fall before the gradient stops, in (0, 1].
        clip_high: How far above 1 the ratio may rise before the gradient stops, above 0.
        aggregation: ``trajectory``: mean over each trajectory's action tokens, then over trajectories (the paper).
            ``token``: one mean over all action tokens of the mini-batch (the authors' code). ``constant``: sum over
            action tokens, divided by trajectories times ``constant_tokens`` (Dr.GRPO, with ``advantage_scale: none``).
        constant_tokens: Tokens that each trajectory counts as, with ``constant`` only.
        max_ratio: Largest ratio, where tokens of a negative advantage stop: the dual clip (arXiv 1912.09729), which
            verl has at 3 and TRL calls delta; the authors' code has 100. None: no limit.
        coefficient: Weight of the term in the objective.
    """

    def __init__(
        self,
        clip_low: float = 0.2,
        clip_high: float = 0.2,
        aggregation: PolicyAggregation = "trajectory",
        max_ratio: float | None = None,
        coefficient: float = 1.0,
        constant_tokens: int | None = None,
    ) -> None:
        super().__init__(aggregation, constant_tokens, coefficient)
        check_clip(clip_low, clip_high, max_ratio)
        self.clip_low, self.clip_high, self.max_ratio = clip_low, clip_high, max_ratio

    def surrogate(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """A ratio that is clipped where it leaves the range in the direction of its advantage."""
        return clipped_surrogate(tokens.log_ratio, tokens.advantages, self.clip_low, self.clip_high, self.max_ratio)


class GSPOLoss(Loss):
    """GSPO's clipped surrogate, with one ratio per trajectory (see `gspo_loss`).

    Args:
        clip_low: How far below 1 a trajectory's ratio may fall before the gradient stops, in (0, 1].
        clip_high: How far above 1 a trajectory's ratio may rise before the gradient stops, above 0.
        coefficient: Weight of the term in the objective.
    """

    name = "policy"
    is_by_token = False

    def __init__(self, clip_low: float = 3e-4, clip_high: float = 4e-4, coefficient: float = 1.0) -> None:
        super().__init__(coefficient)
        check_clip(clip_low, clip_high, None)
        self.clip_low, self.clip_high = clip_low, clip_high

    def __call__(self, inputs: LossInputs, denominator: Tensor | None = None) -> LossOutput:
        """Compute `gspo_loss` of a micro-batch."""
        refuse_penalties(inputs, self)
        return gspo_loss(
            inputs.log_probs,
            inputs.old_log_probs,
            inputs.advantages,
            inputs.policy_index,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
            weights=inputs.loss_weights,
            denominator=denominator,
        )

    def denominator(self, batch: LossBatch) -> Tensor:
        """Count the trajectories with action tokens."""
        return count(action_mask(batch.policy_index), "trajectory")

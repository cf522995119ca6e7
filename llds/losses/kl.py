r"""The divergence from the reference policy, estimated on the sampled tokens.

Left out on purpose: the coefficient (the module multiplies), and KL inside the reward.
"""

from typing import Literal

import torch
from torch import Tensor

from llds.errors import ConfigurationError
from llds.losses.loss import Loss, LossBatch, LossInputs, LossOutput
from llds.losses.masking import (
    Aggregation,
    action_mask,
    average,
    check_choice,
    check_shapes,
    count,
    masked,
    masked_mean,
)

KLEstimator = Literal["k1", "k2", "k3"]
"""http://joschu.net/blog/kl-approx.html: ``k1`` the log-ratio, ``k2`` half its square, ``k3`` the one in GRPO."""

K3_LIMIT = 10.0
"""Largest value of k3 on a token, in nats; beyond it no gradient flows."""

_OVERFLOW_FREE = 20.0
"""Log-ratio whose k3 is far above `K3_LIMIT` and whose exponential is finite in every dtype."""


def kl_penalty(
    log_probs: Tensor,
    ref_log_probs: Tensor,
    action_index: Tensor,
    *,
    estimator: KLEstimator = "k3",
    aggregation: Aggregation = "trajectory",
    denominator: float | Tensor | None = None,
) -> LossOutput:
    r"""Mean over action tokens of an estimate of :math:`KL(\pi_\theta \| \pi_{ref})`.

    .. math::
        k_1 = -d, \qquad k_2 = \tfrac{1}{2} d^2, \qquad k_3 = \mathrm{clamp}(e^d - d - 1, -10, 10), \qquad
        d = \ln \pi_{ref}(y_k) - \ln \pi_\theta(y_k)

    arXiv 2512.04220 v2, text at eq. 1 (coefficient 0.001). Gradients flow to `log_probs` only, on action tokens only.
    An empty mask gives exactly 0 with a zero gradient.

    Args:
        log_probs: ``[B, T]``; anything off the actions.
        ref_log_probs: Under the reference policy, ``[B, T]``; anything off the actions.
        action_index: Turn number of each action token, -1 elsewhere, ``[B, T]`` long.
        estimator: ``k3`` is never negative, and 0 only at the reference.
        aggregation: ``trajectory``: mean over each trajectory's action tokens, then over trajectories; ``token``: one
            mean over all action tokens.
        denominator: Global count (trajectories with action tokens, or action tokens); None: of these tensors.

    Returns:
        The loss in nats and ``policy/kl``, the plain mean of the estimate over the action tokens.

    Note:
        The clamp acts on the value of k3, as in the authors' code: a token more than 10 nats of k3 away is not pulled
        back. The gradient of k1 is that of :math:`\ln \pi_\theta` and has mean 0 on the policy's own samples: log it,
        do not train on it.
    """
    check_choice("estimator", estimator, KLEstimator)
    check_choice("aggregation", aggregation, Aggregation)
    check_shapes(action_index, log_probs=log_probs, ref_log_probs=ref_log_probs)
    mask = action_mask(action_index)
    d = masked(ref_log_probs.detach(), mask) - masked(log_probs, mask)  # [B, T]
    if estimator == "k1":
        values = -d
    elif estimator == "k2":
        values = d**2 / 2
    else:
        values = k3(d)
    if denominator is None:
        denominator = count(mask, aggregation)
    return LossOutput(average(values, mask, aggregation, denominator), {"policy/kl": masked_mean(values, mask)})


def k3(log_ratio: Tensor) -> Tensor:
    """The estimate k3 of `kl_penalty`, token by token: ``exp(d) - d - 1``, at most `K3_LIMIT`.

    Args:
        log_ratio: d, of the other policy to the one that is trained.
    """
    bounded = log_ratio.clamp(max=_OVERFLOW_FREE)
    return (torch.expm1(bounded) - bounded).clamp(-K3_LIMIT, K3_LIMIT)


class KLPenalty(Loss):
    """KL divergence from the reference policy (see `kl_penalty`).

    Args:
        coefficient: Weight of the term in the objective; 0 needs no reference policy at all.
        estimator: ``k1`` the log-ratio, ``k2`` half its square, ``k3`` GRPO's, never negative.
        aggregation: ``trajectory``: mean over each trajectory's action tokens, then over trajectories (the paper).
            ``token``: one mean over all action tokens of the mini-batch (the authors' code).
    """

    name = "kl"

    def __init__(
        self, coefficient: float = 1e-3, estimator: KLEstimator = "k3", aggregation: Aggregation = "trajectory"
    ) -> None:
        super().__init__(coefficient)
        check_choice("estimator", estimator, KLEstimator)
        check_choice("aggregation", aggregation, Aggregation)
        self.estimator: KLEstimator = estimator
        self.aggregation: Aggregation = aggregation

    def __call__(self, inputs: LossInputs, denominator: Tensor | None = None) -> LossOutput:
        """Compute `kl_penalty` of a micro-batch; `inputs.ref_log_probs` must be there."""
        if inputs.ref_log_probs is None:
            raise ConfigurationError(
                "Expected `ref_log_probs` for the KL penalty, got None. Score the batch under the reference policy, or "
                "set the KL coefficient to 0 and leave the term out."
            )
        return kl_penalty(
            inputs.log_probs,
            inputs.ref_log_probs,
            inputs.action_index,
            estimator=self.estimator,
            aggregation=self.aggregation,
            denominator=denominator,
        )

    def denominator(self, batch: LossBatch) -> Tensor:
        """Count the trajectories with action tokens, or the action tokens."""
        return count(action_mask(batch.action_index), self.aggregation)

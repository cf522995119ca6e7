r"""Selections of whole trajectories: void turns, OPSM, rejection by the gap to the sampler, IcePop."""

from typing import Literal

import torch
from torch import Tensor

from llds.errors import ConfigurationError
from llds.losses.loss import LossBatch, LossInputs
from llds.losses.masking import action_mask, check_choice, check_positive, masked, per_token
from llds.losses.selections.importance import ImportanceLevel
from llds.losses.selections.selection import Selected, Selection

RejectionEstimator = Literal["k1", "k2", "k3"]
"""``k1``: the ratio has to stay in a band; ``k2``: half the squared log-ratio; ``k3``: ratio - 1 - log-ratio."""

RejectionOver = Literal["token", "sum", "mean", "max"]
"""``token``: each token is judged by itself; else its trajectory, by the sum, mean or maximum over its tokens."""


class VoidTurns(Selection):
    """Leaves out trajectories with a void turn: an action that is neither a complete tool call nor an answer.

    arXiv 2509.02479 (SimpleTIR). Acts on the policy loss: the whole trajectory is not learned from and not
    counted; its reward stays in the statistics of its group.

    Note:
        KL and LLDS still see such trajectories; SimpleTIR trains without a KL penalty.
    """

    def __call__(self, batch: LossBatch) -> Selected:
        """Exclude them."""
        is_void = batch.need("is_void", self)
        return Selected(excluded=action_mask(batch.action_index) & is_void.unsqueeze(1))


class OffPolicySequenceMask(Selection):
    r"""OPSM: leaves out trajectories with a negative advantage that the policy has already drifted away from.

    .. math::
        M_i = 0 \quad\text{where}\quad A_i < 0 \;\text{and}\;
            \frac{1}{|y_i|} \sum_k \ln \frac{\mu(y_{i,k})}{\pi_\theta(y_{i,k})} > \delta, \qquad 1 \text{ elsewhere}

    DeepSeek-V3.2 (arXiv 2512.02556); TRL's ``off_policy_mask_threshold``. :math:`\mu` is the behavior policy.
    Acts on the policy loss: tokens of such trajectories weigh 0, and are counted. Local: each trajectory by itself,
    against the policy of now.

    Args:
        delta: Largest mean loss of log-likelihood, in nats per token, above 0.
    """

    is_local = True

    def __init__(self, delta: float = 0.1) -> None:
        check_positive("OffPolicySequenceMask.delta", delta)
        self.delta = delta

    def __call__(self, batch: LossBatch) -> Selected:
        """Weigh them with 0."""
        assert isinstance(batch, LossInputs)  # noqa: S101 (it is local)
        mask = action_mask(batch.policy_index)
        log_probs = masked(batch.log_probs.detach(), mask)
        drift = masked(batch.need("behavior_log_probs", self), mask).to(log_probs.dtype) - log_probs
        mean = drift.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
        dropped = mask & (per_token(batch.advantages, mask) < 0) & (mean > self.delta)
        return Selected(loss_weights=(~dropped).to(log_probs.dtype))


class ImportanceMask(Selection):
    r"""IcePop: the importance weight of a token where it lies in a band, and 0 where it does not.

    .. math::
        w_{i,k} = \frac{\pi_{old}(y_{i,k})}{\mu(y_{i,k})}\;
            \mathbb{1}\Big[a \le \frac{\pi_{old}(y_{i,k})}{\mu(y_{i,k})} \le b\Big]

    arXiv 2510.18855. :math:`\mu` is the behavior policy. Where truncation (`ImportanceCorrection`) keeps a token
    whose ratio is far off at the largest weight, this takes it out. Acts on the policy loss: tokens outside weigh 0,
    and are counted. Local.

    Args:
        low: :math:`a`, not negative, below 1.
        high: :math:`b`, above 1.
        level: ``token``, or ``sequence``: one ratio for a trajectory, the product over its tokens.

    Note:
        It is an importance correction already: use it without ``model.importance_correction``.
    """

    is_local = True
    corrects_sampler = True

    def __init__(self, low: float = 0.5, high: float = 5.0, level: ImportanceLevel = "token") -> None:
        check_choice("level", level, ImportanceLevel)
        _check_band(low, high)
        self.low, self.high = low, high
        self.level: ImportanceLevel = level

    def __call__(self, batch: LossBatch) -> Selected:
        """Weigh tokens."""
        mask = action_mask(batch.policy_index)
        log_ratio = _gap(batch, mask, self)
        if self.level == "sequence":
            log_ratio = log_ratio.sum(1, keepdim=True).expand_as(log_ratio)
        inside = mask & (log_ratio >= _log(self.low)) & (log_ratio <= _log(self.high))
        return Selected(loss_weights=torch.where(inside, masked(log_ratio, inside).exp(), 0.0))


class Rejection(Selection):
    r"""Leaves out tokens or trajectories whose gap between sampler and trainer is too large.

    With :math:`d = \ln \pi_{old}(y_k) - \ln \mu(y_k)`: ``k1`` keeps where :math:`a \le e^{-d} \le b` (over a
    trajectory the sum or mean of :math:`d`), ``k2`` where :math:`d^2 / 2 \le b`, ``k3`` where
    :math:`e^d - 1 - d \le b`.

    verl 0.9.1, ``rollout_corr_helper.compute_rollout_rejection_mask``. Acts on the policy loss: what is rejected is
    not counted.

    Args:
        estimator: ``k1``, ``k2`` or ``k3``.
        over: ``token``, ``sum``, ``mean`` or ``max`` (not for k1).
        high: :math:`b`.
        low: :math:`a`, with k1 only; null there is 0.5.
    """

    reads_old_log_probs = True

    def __init__(
        self,
        estimator: RejectionEstimator = "k3",
        over: RejectionOver = "mean",
        high: float = 0.01,
        low: float | None = None,
    ) -> None:
        check_choice("estimator", estimator, RejectionEstimator)
        check_choice("over", over, RejectionOver)
        if estimator == "k1" and over == "max":
            raise ConfigurationError("Expected `over` of Rejection to be token, sum or mean for k1, got max.")
        if estimator == "k1":
            low = 0.5 if low is None else low
            _check_band(low, high)
        elif low is not None:
            raise ConfigurationError(
                f"Expected `low` of Rejection with k1 only, got {low} with {estimator}. Take it out."
            )
        check_positive("Rejection.high", high)
        self.estimator, self.over = estimator, over
        self.low, self.high = 0.0 if low is None else low, high

    def __call__(self, batch: LossBatch) -> Selected:
        """Exclude them."""
        mask = action_mask(batch.action_index)
        log_ratio = _gap(batch, mask, self)
        values = {
            "k1": -log_ratio,
            "k2": log_ratio**2 / 2,
            "k3": torch.expm1(log_ratio) - log_ratio,
        }[self.estimator]
        values = self._over(masked(values, mask), mask)
        if self.estimator == "k1":
            rejected = (values < _log(self.low)) | (values > _log(self.high))
        else:
            rejected = values > self.high
        return Selected(excluded=mask & rejected)

    def _over(self, values: Tensor, mask: Tensor) -> Tensor:
        if self.over == "token":
            return values
        if self.over == "max":
            return values.amax(1, keepdim=True)
        total = values.sum(1, keepdim=True)
        return total if self.over == "sum" else total / mask.sum(1, keepdim=True).clamp(min=1)


def _gap(batch: LossBatch, mask: Tensor, reader: Selection) -> Tensor:
    """Log-ratio of the old policy to the behavior policy, 0 off the mask, ``[B, T]``."""
    old = masked(batch.need("old_log_probs", reader).detach(), mask)
    return old - masked(batch.need("behavior_log_probs", reader).detach(), mask).to(old.dtype)


def _log(bound: float) -> float:
    return float(torch.tensor(bound, dtype=torch.float64).log())


def _check_band(low: float, high: float) -> None:
    if not 0 <= low < 1 < high:
        raise ConfigurationError(f"Expected a band of ratios around 1, 0 <= `low` < 1 < `high`, got {low} and {high}.")

r"""Selections of tokens by quantiles over the mini-batch: KL-Cov, Clip-Cov, Lp-Reg, the tokens of high entropy."""

import torch
from torch import Tensor

from llds.errors import ConfigurationError
from llds.losses.loss import LossBatch
from llds.losses.masking import action_mask, check_positive, masked, per_token
from llds.losses.selections.selection import Selected, Selection


class KLCov(Selection):
    r"""KL-Cov: holds the tokens that drive entropy down near the old policy.

    .. math::
        c_k = (A_k - \bar A)(\ln \pi(y_k) - \overline{\ln \pi}), \qquad
        L_k = -\gamma_k A_k + \beta\, |\ln \pi_\theta(y_k) - \ln \pi_{old}(y_k)| \quad\text{on the share of largest } c

    arXiv 2505.22617; means are over all action tokens. Acts on the policy loss, which the paper does not
    clip (``GRPOLoss`` with ``clip_low: 1.0`` and a huge ``clip_high``).

    Args:
        share: Of the action tokens, in (0, 1); at least one token.
        coefficient: :math:`\beta`.

    Note:
        :math:`c` is taken from the old policy, over the whole mini-batch, before it is cut; the authors' code takes it
        from the policy of now, over a micro-batch of one GPU. A token whose covariance is not above 0 is never held.
    """

    reads_old_log_probs = True
    chooses_tokens = True

    def __init__(self, share: float = 2e-4, coefficient: float = 1.0) -> None:
        _check_share(share)
        check_positive("KLCov.coefficient", coefficient)
        self.share, self.coefficient = share, coefficient

    def __call__(self, batch: LossBatch) -> Selected:
        """Penalize the drift of the tokens that covary most."""
        mask = action_mask(batch.policy_index)
        covariance = token_covariance(batch, mask, self)
        # Where all advantages are equal every covariance is 0, and nothing drives entropy down
        chosen = largest(covariance, mask, self.share) & (covariance > 0)
        return Selected(loss_penalties=self.coefficient * chosen.to(covariance.dtype))


class ClipCov(Selection):
    r"""Clip-Cov: takes a few of the tokens that drive entropy down out of the policy loss.

    Of the tokens whose covariance :math:`c` (`KLCov`) lies in a band, a share of all action tokens is left out.
    arXiv 2505.22617. Acts on the policy loss: chosen tokens weigh 0, and are counted.

    Args:
        share: Of the action tokens, in (0, 1); at least one token, where the band holds one.
        low: Of the band.
        high: Of the band.

    Note:
        The paper draws them at random within the band; here those of the largest covariance are taken, so that the
        choice depends on nothing but the tokens. The old policy gives :math:`c`, as for `KLCov`.
    """

    reads_old_log_probs = True
    chooses_tokens = True

    def __init__(self, share: float = 2e-4, low: float = 1.0, high: float = 5.0) -> None:
        _check_share(share)
        if not low < high:
            raise ConfigurationError(f"Expected `low` < `high` of ClipCov, got {low} and {high}.")
        self.share, self.low, self.high = share, low, high

    def __call__(self, batch: LossBatch) -> Selected:
        """Weigh them with 0."""
        mask = action_mask(batch.policy_index)
        covariance = token_covariance(batch, mask, self)
        inside = mask & (covariance > self.low) & (covariance < self.high)
        chosen = largest(covariance, inside, self.share, of=int(mask.sum()))
        return Selected(loss_weights=(~chosen).to(covariance.dtype))


class HighEntropyTokens(Selection):
    """80/20: the policy loss learns from the action tokens of high entropy only.

    arXiv 2506.01939. Acts on the policy loss: all other tokens weigh 0, and are counted, as in the paper.

    Args:
        share: Of the action tokens with the largest entropy under the old policy, in (0, 1); 0.2 in the paper.

    Note:
        The threshold is that of the whole mini-batch under the old policy; TRL takes that of the policy of now.
    """

    reads_old_entropy = True
    chooses_tokens = True

    def __init__(self, share: float = 0.2) -> None:
        _check_share(share)
        self.share = share

    def __call__(self, batch: LossBatch) -> Selected:
        """Weigh all others with 0."""
        mask = action_mask(batch.policy_index)
        entropy = masked(batch.need("old_entropy", self), mask)
        return Selected(loss_weights=largest(entropy, mask, self.share).to(entropy.dtype))


class LpReg(Selection):
    r"""Lp-Reg: unlikely tokens of wrong trajectories that are no noise are pulled up, so that they stay possible.

    .. math::
        L_k = -\gamma_k A_k + \beta\,(e^d - d - 1)\, \mathbb{1}[d > 0], \qquad
        d = \ln \tilde\pi(y_k) - \ln \pi_\theta(y_k), \qquad
        \tilde\pi(v) \propto \pi_{old}(v)\, \mathbb{1}\big[\pi_{old}(v) \ge \kappa \max_u \pi_{old}(u)\big]

    arXiv 2510.03222 and its code. On the share of the action tokens with :math:`A < 0` that are least likely under the
    old policy; one that :math:`\tilde\pi` leaves out as noise is not pulled. d counts up to a value of 10, as k3 of the
    KL penalty. Acts on the policy loss, which there does not clip from below (``GRPOLoss`` with ``clip_low: 1.0``).

    Args:
        share: Of the action tokens of negative advantage, in (0, 1); at least one token.
        coefficient: :math:`\beta`.
        proxy_share: :math:`\kappa`, in (0, 1).

    Note:
        The share is taken over the whole mini-batch under the old policy, which also makes the proxy; the authors' code
        takes it over a micro-batch, under the policy of now, and nothing where it is a single token.
    """

    reads_old_log_probs = True
    chooses_tokens = True

    def __init__(self, share: float = 0.01, coefficient: float = 1.0, proxy_share: float = 0.02) -> None:
        _check_share(share)
        check_positive("LpReg.coefficient", coefficient)
        if not 0 < proxy_share < 1:
            raise ConfigurationError(f"Expected `proxy_share` of LpReg between 0 and 1, got {proxy_share}.")
        self.share, self.coefficient = share, coefficient
        self.proxy_share = proxy_share

    def __call__(self, batch: LossBatch) -> Selected:
        """Pull up the least likely."""
        mask = action_mask(batch.policy_index)
        mask = mask & (per_token(batch.advantages, mask) < 0)
        old, proxy = batch.need("old_log_probs", self).detach(), batch.need("old_proxy", self)
        chosen = largest(-masked(old, mask), mask, self.share) & proxy.isfinite()
        return Selected(loss_pulls=self.coefficient * chosen.to(old.dtype))


def token_covariance(batch: LossBatch, mask: Tensor, reader: object) -> Tensor:
    """Centered advantage times centered log-prob under the old policy, of each token, ``[B, T]``; 0 off the mask."""
    log_probs = masked(batch.need("old_log_probs", reader).detach(), mask)
    advantages = masked(per_token(batch.advantages, mask).to(log_probs.dtype).expand_as(log_probs), mask)
    count = mask.sum().clamp(min=1)
    centered = [values - values.sum() / count for values in (advantages, log_probs)]
    return masked(centered[0] * centered[1], mask)


def largest(values: Tensor, mask: Tensor, share: float, of: int | None = None) -> Tensor:
    """Where the largest values on a mask are; equal ones are chosen or left together, so that no order decides.

    Args:
        values: ``[B, T]``.
        mask: ``[B, T]`` bool.
        share: How many, of `of`; at least one.
        of: None: of the tokens on the mask.

    Returns:
        ``[B, T]`` bool; more than the share where the smallest chosen value is there several times.
    """
    inside = values[mask]
    count = min(len(inside), max(1, int(share * (len(inside) if of is None else of))))
    if count == 0:
        return torch.zeros_like(mask)
    return mask & (values >= inside.topk(count).values[-1])


def _check_share(share: float) -> None:
    if not 0 < share < 1:
        raise ConfigurationError(f"Expected `share` of a selection between 0 and 1, got {share}.")

r"""Policy losses with one ratio per token other than GRPO's: CISPO, SAPO, WAPO, DPPO, IPO.

Each is REINFORCE at the old policy (where the ratio is 1), and differs in what becomes of tokens whose ratio has moved.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from llds.errors import ConfigurationError
from llds.losses.masking import PolicyAggregation, check_choice, check_positive
from llds.losses.surrogates.token_loss import TokenLoss, Tokens, finite_ratio

Divergence = Literal["tv", "kl"]
"""Of a token's probability as a coin: ``tv`` the difference, ``kl`` the Kullback-Leibler divergence."""


class CISPOLoss(TokenLoss):
    r"""CISPO: the ratio is a weight, clipped and without gradient, so that no token loses its gradient.

    .. math::
        L = -\,\mathrm{sg}\big(\min(\max(\gamma_k, 1 - \epsilon_l), c)\big)\, A \ln \pi_\theta(y_k)

    arXiv 2506.13585, eq. 4 and 5. Averaged over tokens; :math:`\gamma` is the ratio to the old policy, sg stops the
    gradient. Acts on the policy loss.

    Args:
        max_ratio: :math:`c`, the largest weight, above 1. ScaleRL (arXiv 2510.13786) and TRL take 4 to 8; verl's is 1 +
            ``clip_ratio_high``.
        clip_low: :math:`\epsilon_l`, in [0, 1]; 1, the paper's, sets no lower bound.
        aggregation: See `TokenLoss`; ``token`` in the paper.
        constant_tokens: See `TokenLoss`.
        coefficient: Weight of the term in the objective.
    """

    def __init__(
        self,
        max_ratio: float = 5.0,
        clip_low: float = 1.0,
        aggregation: PolicyAggregation = "token",
        constant_tokens: int | None = None,
        coefficient: float = 1.0,
    ) -> None:
        super().__init__(aggregation, constant_tokens, coefficient)
        if not (max_ratio > 1 and 0 <= clip_low <= 1):
            raise ConfigurationError(f"Expected `max_ratio` > 1, `clip_low` in [0, 1], got {max_ratio} and {clip_low}.")
        self.max_ratio, self.clip_low = max_ratio, clip_low

    def surrogate(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """A weighted log-likelihood."""
        ratio = finite_ratio(tokens.log_ratio.detach())
        bounded = ratio.clamp(1 - self.clip_low, self.max_ratio)
        return bounded * tokens.advantages * tokens.log_probs, bounded != ratio


class SAPOLoss(TokenLoss):
    r"""SAPO: a smooth gate instead of a clip, steeper for negative advantages.

    .. math::
        L = -\frac{4}{\tau}\, \sigma\big(\tau (\gamma_k - 1)\big) A, \qquad
        \tau = \tau_+ \text{ for } A > 0,\; \tau_- \text{ otherwise}

    arXiv 2511.20347. Mean over each trajectory's tokens; the gradient weight falls off as
    :math:`4 \sigma (1 - \sigma) \gamma` and is 1 at the old policy. Acts on the policy loss.

    Args:
        tau_positive: :math:`\tau_+`, above 0.
        tau_negative: :math:`\tau_-`, above 0.
        aggregation: See `TokenLoss`.
        constant_tokens: See `TokenLoss`.
        coefficient: Weight of the term in the objective.
    """

    def __init__(
        self,
        tau_positive: float = 1.0,
        tau_negative: float = 1.05,
        aggregation: PolicyAggregation = "trajectory",
        constant_tokens: int | None = None,
        coefficient: float = 1.0,
    ) -> None:
        super().__init__(aggregation, constant_tokens, coefficient)
        check_positive("SAPOLoss.tau_positive", tau_positive)
        check_positive("SAPOLoss.tau_negative", tau_negative)
        self.tau_positive, self.tau_negative = tau_positive, tau_negative

    def surrogate(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """A gated ratio; nothing is cut."""
        ratio = finite_ratio(tokens.log_ratio)
        positive, negative = (torch.full_like(ratio, tau) for tau in (self.tau_positive, self.tau_negative))
        tau = torch.where(tokens.advantages > 0, positive, negative)
        gate = torch.sigmoid(tau * (ratio - 1)) * 4 / tau
        return gate * tokens.advantages, torch.zeros_like(ratio, dtype=torch.bool)


class WAPOLoss(TokenLoss):
    r"""WAPO: learns from positive advantages only, with a one-sided clip.

    .. math::
        L = -\min(\gamma_k, 1 + \epsilon)\, \max(A, 0), \qquad
        \gamma_k = \frac{\pi_\theta(y_k)}{\mu(y_k)}

    arXiv 2606.16154 and its code. :math:`\mu` is the **behavior policy**, so that the ratio also corrects for the
    sampler. With advantages that are not divided by their standard deviation (``GroupAdvantages`` with ``scale:
    none``), and ``aggregation: constant``: trajectories of a negative advantage have no term, but count. Acts on
    the policy loss.

    Args:
        epsilon: :math:`\epsilon`, above 0; 9 in the paper.
        aggregation: See `TokenLoss`.
        constant_tokens: See `TokenLoss`; the longest sequence in the paper.
        coefficient: Weight of the term in the objective.
    """

    corrects_sampler = True

    def __init__(
        self,
        epsilon: float = 9.0,
        aggregation: PolicyAggregation = "trajectory",
        constant_tokens: int | None = None,
        coefficient: float = 1.0,
    ) -> None:
        super().__init__(aggregation, constant_tokens, coefficient)
        check_positive("WAPOLoss.epsilon", epsilon)
        self.epsilon = epsilon

    def surrogate(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """A ratio to the sampler, bounded from above."""
        log_ratio = tokens.log_probs - _behavior(tokens, self)
        bound = math.log1p(self.epsilon)
        return log_ratio.clamp(max=bound).exp() * tokens.advantages.clamp(min=0), (log_ratio > bound) & (
            tokens.advantages > 0
        )


class DPPOLoss(TokenLoss):
    r"""DPPO: a token learns while its probability, not its ratio, is near the old policy's.

    .. math::
        L = -m_k\, \mathrm{sg}\big(\min(\gamma_k, c)\big) A \ln \pi_\theta(y_k)

    arXiv 2602.04879, the binary divergences. :math:`m_k` is 0 where the token has moved in the direction of its
    advantage by more than the bound: for ``tv``, :math:`\pi_\theta - \pi_{old} > \delta_h` with :math:`A > 0`, or
    :math:`< -\delta_l` otherwise; for ``kl``, the divergence of the two coins is larger than the bound. A ratio clip
    binds on rare tokens first; this binds on likely ones. Acts on the policy loss.

    Args:
        divergence: ``tv`` or ``kl``.
        delta_low: Bound for tokens that fall, above 0.
        delta_high: Bound for tokens that rise, above 0.
        max_ratio: :math:`c`, the largest weight, above 1.
        aggregation: See `TokenLoss`.
        constant_tokens: See `TokenLoss`.
        coefficient: Weight of the term in the objective.
    """

    def __init__(
        self,
        divergence: Divergence = "tv",
        delta_low: float = 0.2,
        delta_high: float = 0.2,
        max_ratio: float = 20.0,
        aggregation: PolicyAggregation = "token",
        constant_tokens: int | None = None,
        coefficient: float = 1.0,
    ) -> None:
        super().__init__(aggregation, constant_tokens, coefficient)
        check_choice("divergence", divergence, Divergence)
        check_positive("DPPOLoss.delta_low", delta_low)
        check_positive("DPPOLoss.delta_high", delta_high)
        if not max_ratio > 1:
            raise ConfigurationError(f"Expected `max_ratio` of DPPOLoss above 1, got {max_ratio}.")
        self.divergence: Divergence = divergence
        self.delta_low, self.delta_high, self.max_ratio = delta_low, delta_high, max_ratio

    def surrogate(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """A weighted log-likelihood, where the divergence is small or shrinks."""
        new, old = tokens.log_probs.detach(), tokens.old_log_probs
        p, q = new.exp(), old.exp()
        if self.divergence == "tv":
            distance = (p - q).abs()
        else:
            distance = q * (old - new) + (1 - q) * ((1 - q + 1e-8) / (1 - p + 1e-8)).log()
        rises = (tokens.advantages > 0).expand_as(p)
        bound = torch.where(rises, torch.full_like(p, self.delta_high), torch.full_like(p, self.delta_low))
        is_cut = (distance > bound) & torch.where(rises, p > q, p < q)
        ratio = finite_ratio(tokens.log_ratio.detach()).clamp(max=self.max_ratio)
        values = ratio * tokens.advantages * tokens.log_probs
        return torch.where(is_cut, torch.zeros_like(values), values), is_cut


class IPOLoss(TokenLoss):
    r"""prime-rl's IPO: tokens whose probability left the sampler's are masked, and all are drawn back to it.

    .. math::
        L = -\mathbb{1}\big[|\pi_\theta(y_k) - \mu(y_k)| \le \delta\big]\, \gamma_k A
            + \tau\, (\ln \pi_\theta(y_k) - \ln \mu(y_k))^2, \qquad \gamma_k = \frac{\pi_\theta(y_k)}{\mu(y_k)}

    prime-rl, docs/algorithms.md. :math:`\mu` is the **behavior policy**: the ratio and the pull correct for the sampler
    too. Not the IPO of preference learning. Acts on the policy loss.

    Args:
        delta: :math:`\delta`, in (0, 1).
        tau: :math:`\tau`, not negative.
        aggregation: See `TokenLoss`.
        constant_tokens: See `TokenLoss`.
        coefficient: Weight of the term in the objective.
    """

    corrects_sampler = True

    def __init__(
        self,
        delta: float = 0.3,
        tau: float = 1e-3,
        aggregation: PolicyAggregation = "token",
        constant_tokens: int | None = None,
        coefficient: float = 1.0,
    ) -> None:
        super().__init__(aggregation, constant_tokens, coefficient)
        if not (0 < delta < 1 and tau >= 0):
            raise ConfigurationError(f"Expected `delta` of IPOLoss in (0, 1), `tau` >= 0, got {delta} and {tau}.")
        self.delta, self.tau = delta, tau

    def surrogate(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """A masked ratio to the sampler, less a squared distance from it."""
        behavior = _behavior(tokens, self)
        log_ratio = tokens.log_probs - behavior
        is_cut = (tokens.log_probs.detach().exp() - behavior.exp()).abs() > self.delta
        ratio = finite_ratio(torch.where(is_cut, torch.zeros_like(log_ratio), log_ratio))
        values = torch.where(is_cut, torch.zeros_like(ratio), ratio * tokens.advantages)
        return values - self.tau * log_ratio**2, is_cut


def _behavior(tokens: Tokens, loss: TokenLoss) -> Tensor:
    if tokens.behavior_log_probs is None:
        raise ConfigurationError(f"Expected `behavior_log_probs` for {type(loss).__name__}, got None.")
    return tokens.behavior_log_probs

"""Signals of the policy: how likely it finds the actions, how far the updates moved it, how far it is from others."""

from dataclasses import dataclass

import torch
from torch import Tensor

from llds.metrics.actions import ActionKinds, by_outcome
from llds.metrics.averages import RowMeans, Scalars, as_floats, masked_mean

ROUNDS = 3
"""Tool rounds whose actions have a likelihood of their own; those after more rounds are taken together."""


def policy_metrics(
    *,
    old_log_probs: Tensor,
    new_log_probs: Tensor,
    behavior_log_probs: Tensor,
    entropy: Tensor,
    action_index: Tensor,
    answered: Tensor,
    correct: Tensor,
    ref_log_probs: Tensor | None = None,
) -> dict[str, float]:
    """Signals of the policy on an iteration's trajectories. Tensors are read only once, at the end.

    Args:
        old_log_probs: At the start of the iteration, ``[B, T]``.
        new_log_probs: As last seen by the iteration's updates, ``[B, T]``: before the update with the row itself.
        behavior_log_probs: Of the sampler, ``[B, T]``.
        entropy: As last seen by the updates, ``[B, T]``.
        action_index: Turn number on action tokens, -1 elsewhere, ``[B, T]``.
        answered: Whether the last action is an answer (`has_answer`), ``[B]`` bool.
        correct: Whether each trajectory is correct, ``[B]`` bool.
        ref_log_probs: Of the reference, ``[B, T]``.

    Returns:
        ``policy/log_likelihood_{correct,incorrect}`` and ``policy/entropy`` (mean per token, then over trajectories),
        the former also of first, later and answering actions (``..._correct_first``), the latter also of correct and
        incorrect trajectories and by kind of action; ``policy/nll_round_{0,1,2,3_up}`` (negative log-likelihood per
        token of the actions after so many tool rounds); ``policy/ratio_{max,p99,min}``;
        ``policy/behavior_gap_{mean,max}`` (old against behavior, absolute), ``policy/behavior_kl`` (k3 estimate of
        KL(behavior || old), per token), ``policy/behavior_ess`` (effective sample size of the trajectories as samples
        of the old policy, as a share, 0-1; 1 without a gap); ``policy/kl_ref`` (k3 of the old policy).
    """
    tokens = _ActionTokens.of(action_index >= 0)
    old, change = tokens.flat(old_log_probs), tokens.flat(new_log_probs) - tokens.flat(old_log_probs)
    log_probs, index = tokens.rows(old, 0.0), tokens.rows(tokens.flat(action_index), -1)
    mask, kinds = index >= 0, ActionKinds.of(index, answered)
    values: dict[str, Tensor | float] = {
        **by_outcome("policy/log_likelihood", log_probs, mask, correct, kinds),
        **_entropies(tokens.rows(tokens.flat(entropy), 0.0), mask, correct, kinds),
        **_rounds(log_probs, index),
    }
    if len(old):
        gap = old - tokens.flat(behavior_log_probs)
        values |= {**_ratios(change), **_behavior_gap(gap, tokens.rows(gap, 0.0)[mask.any(dim=1)])}
    if ref_log_probs is not None:
        difference = (tokens.flat(ref_log_probs) - old).clamp(max=20)  # keeps the exponential finite
        values["policy/kl_ref"] = (difference.expm1() - difference).clamp(max=10).mean()
    return as_floats(values)


@dataclass(frozen=True)
class _ActionTokens:
    """Finds action tokens: two thirds of a search agent's are prompts and observations, which no signal here reads.

    Attributes:
        sources: Their places in a tensor ``[B, T]`` that is flat, ``[N]``.
        places: Their places in one with as many columns as a row has at most, ``[B, most of a row]``.
        shape: Of the latter.
    """

    sources: Tensor
    places: Tensor
    shape: tuple[int, int]

    @classmethod
    def of(cls, mask: Tensor) -> "_ActionTokens":
        """Find those on a mask, ``[B, T]``."""
        counts = mask.sum(dim=1, keepdim=True)
        is_there = torch.arange(max(1, int(counts.max())), device=mask.device) < counts
        sources, places = (one.flatten().nonzero()[:, 0] for one in (mask, is_there))
        return cls(sources, places, (len(mask), is_there.shape[1]))

    def flat(self, values: Tensor) -> Tensor:
        """The tokens' values in order: ``[B, T]`` to ``[N]``."""
        return values.flatten()[self.sources]

    def rows(self, flat: Tensor, filling: float) -> Tensor:
        """The same by row, then filled: ``[N]`` to ``[B, most of a row]``."""
        result = flat.new_full(self.shape, filling)
        result.view(-1)[self.places] = flat
        return result


def _entropies(entropy: Tensor, mask: Tensor, correct: Tensor, kinds: ActionKinds) -> Scalars:
    means = RowMeans.of(entropy, mask)
    return {
        "policy/entropy": means.over_all(),
        "policy/entropy_correct": means.over(correct),
        "policy/entropy_incorrect": means.over(~correct),
        **{f"policy/entropy_{kind}": masked_mean(entropy, tokens) for kind, tokens in kinds},
    }


def _rounds(log_probs: Tensor, action_index: Tensor) -> Scalars:
    parts = {f"{n}": action_index == n for n in range(ROUNDS)} | {f"{ROUNDS}_up": action_index >= ROUNDS}
    return {f"policy/nll_round_{rounds}": -masked_mean(log_probs, tokens) for rounds, tokens in parts.items()}


def _ratios(change: Tensor) -> Scalars:
    """Likelihood ratios new / old of the action tokens, ``[N]``, at least one."""
    ratio = change.exp()
    return {
        "policy/ratio_max": ratio.max(),
        "policy/ratio_p99": torch.quantile(ratio.float()[: 2**24], 0.99),
        "policy/ratio_min": ratio.min(),
    }


def _behavior_gap(gap: Tensor, by_row: Tensor) -> Scalars:
    """How far the sampler is from the old policy: old - behavior, ``[N]``, at least one; and by row, 0 where none is.

    Rows without an action have been taken out.
    """
    log_weights = by_row.double().sum(dim=1)  # of whole trajectories; shifted by the largest, which cancels
    weights = (log_weights - log_weights.max()).exp()
    return {
        "policy/behavior_gap_mean": gap.abs().mean(),
        "policy/behavior_gap_max": gap.abs().max(),
        "policy/behavior_kl": (gap.clamp(max=20).expm1() - gap).mean(),
        "policy/behavior_ess": weights.sum() ** 2 / (weights**2).sum() / len(weights),
    }

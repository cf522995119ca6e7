"""Signals of the policy: how likely it finds the actions, how far the updates moved it, how far it is from others."""

from collections.abc import Callable

import torch
from torch import Tensor

from llds.metrics.actions import ActionKinds
from llds.metrics.averages import Scalars, as_floats, masked_mean

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
    packed = _action_tokens(action_index >= 0)
    action_index = packed(action_index, -1)
    old_log_probs, new_log_probs, behavior_log_probs, entropy = (
        packed(values, 0.0) for values in (old_log_probs, new_log_probs, behavior_log_probs, entropy)
    )
    ref_log_probs = None if ref_log_probs is None else packed(ref_log_probs, 0.0)
    mask = action_index >= 0
    rows_correct = correct[:, None]
    kinds = ActionKinds.of(action_index, answered)
    values: dict[str, Tensor | float] = {
        **_likelihoods(old_log_probs, mask, rows_correct, kinds),
        **_entropies(entropy, mask, rows_correct, kinds),
        **_rounds(old_log_probs, action_index),
        **_ratios((new_log_probs - old_log_probs)[mask]),
        **_behavior_gap(torch.where(mask, old_log_probs - behavior_log_probs, 0.0), mask),
    }
    if ref_log_probs is not None:
        difference = (ref_log_probs - old_log_probs)[mask].clamp(max=20)  # keeps the exponential finite
        values["policy/kl_ref"] = (difference.expm1() - difference).clamp(max=10).mean()
    return as_floats(values)


def _action_tokens(mask: Tensor) -> Callable[[Tensor, float], Tensor]:
    """Takes the tokens on a mask out of a tensor: ``[B, T]`` to ``[B, most of a row]``, in their order, then filled.

    Two thirds of a search agent's tokens are prompts and observations, which no signal here reads.
    """
    rows, columns = mask.nonzero(as_tuple=True)
    places = (mask.cumsum(dim=1) - 1)[rows, columns]
    width = max(1, int(mask.sum(dim=1).max()))

    def packed(values: Tensor, filling: float) -> Tensor:
        result = values.new_full((len(mask), width), filling)
        result[rows, places] = values[rows, columns]
        return result

    return packed


def _likelihoods(log_probs: Tensor, mask: Tensor, correct: Tensor, kinds: ActionKinds) -> Scalars:
    values = {}
    for name, rows in (("correct", correct), ("incorrect", ~correct)):
        values[f"policy/log_likelihood_{name}"] = masked_mean(log_probs, mask & rows)
        for kind, tokens in kinds:
            values[f"policy/log_likelihood_{name}_{kind}"] = masked_mean(log_probs, tokens & rows)
    return values


def _entropies(entropy: Tensor, mask: Tensor, correct: Tensor, kinds: ActionKinds) -> Scalars:
    parts = {"correct": mask & correct, "incorrect": mask & ~correct, **dict(kinds)}
    return {
        "policy/entropy": masked_mean(entropy, mask),
        **{f"policy/entropy_{name}": masked_mean(entropy, tokens) for name, tokens in parts.items()},
    }


def _rounds(log_probs: Tensor, action_index: Tensor) -> Scalars:
    parts = {f"{n}": action_index == n for n in range(ROUNDS)} | {f"{ROUNDS}_up": action_index >= ROUNDS}
    return {f"policy/nll_round_{rounds}": -masked_mean(log_probs, tokens) for rounds, tokens in parts.items()}


def _ratios(change: Tensor) -> Scalars:
    """Likelihood ratios new / old of the action tokens, ``[N]``."""
    if not len(change):
        return {}
    ratio = change.exp()
    return {
        "policy/ratio_max": ratio.max(),
        "policy/ratio_p99": torch.quantile(ratio.float()[: 2**24], 0.99),
        "policy/ratio_min": ratio.min(),
    }


def _behavior_gap(log_ratio: Tensor, mask: Tensor) -> Scalars:
    """How far the sampler is from the old policy; ``[B, T]``, 0 off the mask."""
    gap = log_ratio[mask]
    if not len(gap):
        return {}
    # Of whole trajectories, over those with actions; shifted by the largest, which cancels.
    log_weights = log_ratio.double().sum(dim=1)[mask.any(dim=1)]
    weights = (log_weights - log_weights.max()).exp()
    return {
        "policy/behavior_gap_mean": gap.abs().mean(),
        "policy/behavior_gap_max": gap.abs().max(),
        "policy/behavior_kl": (gap.clamp(max=20).expm1() - gap).mean(),
        "policy/behavior_ess": weights.sum() ** 2 / (weights**2).sum() / len(weights),
    }

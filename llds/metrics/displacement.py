"""Lazy likelihood displacement: how an iteration's updates changed the likelihood of its own trajectories."""

import torch
from torch import Tensor

from llds.metrics.actions import ActionKinds, by_outcome
from llds.metrics.averages import Scalars, as_floats, share


def displacement_metrics(
    *, before: Tensor, after: Tensor, action_index: Tensor, answered: Tensor, correct: Tensor
) -> dict[str, float]:
    r"""Signals of the change :math:`\Delta_t(x, y_t) = \ln \pi_{after}(y_t) - \ln \pi_{before}(y_t)`.

    arXiv 2512.04220 v2, definition 4.1. Tensors are read only once, at the end.

    Args:
        before: Log-probabilities under the policy that the iteration started from, ``[B, T]``.
        after: Under the policy that its updates made, ``[B, T]``.
        action_index: Turn number on action tokens, -1 elsewhere, ``[B, T]``.
        answered: Whether the last action is an answer (`has_answer`), ``[B]`` bool.
        correct: Whether each trajectory is correct, ``[B]`` bool.

    Returns:
        ``llds/displacement_{correct,incorrect}`` (mean change per token, then over trajectories), also of first, later
        and answering actions (``..._correct_first``); ``llds/lld_rate`` (share of the actions of correct trajectories
        whose likelihood fell: definition 4.1 with eps = 0), also by kind of action; ``llds/lld_magnitude`` (mean fall
        per token over those, 0 where none fell).
    """
    mask = action_index >= 0
    change = torch.where(mask, after - before, 0.0)
    kinds = ActionKinds.of(action_index, answered)
    values = by_outcome("llds/displacement", change, mask, correct, kinds)
    return as_floats({**values, **_lazy_likelihood(change, action_index, correct[:, None], kinds)})


def _lazy_likelihood(change: Tensor, action_index: Tensor, correct: Tensor, kinds: ActionKinds) -> Scalars:
    """LLD rate and magnitude over the actions of correct trajectories; ``[B, T]``, 0 off the mask."""
    if not change.numel():
        return {}
    actions = int(action_index.max()) + 1
    slot = action_index.clamp(min=0)

    def per_action(values: Tensor) -> Tensor:  # [B, actions]
        return values.new_zeros(values.shape[0], max(actions, 1)).scatter_add(1, slot, values)

    total, tokens = per_action(change), per_action((action_index >= 0).to(change.dtype))
    counted = (tokens > 0) & correct
    fell = counted & (total < 0)
    falls = torch.where(fell, -total / tokens.clamp(min=1), 0.0)
    rates = {
        f"llds/lld_rate_{kind}": share(fell, counted & (per_action(of.to(change.dtype)) > 0)) for kind, of in kinds
    }
    # An action without a fall falls by nothing; no action at all leaves both undefined
    magnitude = torch.where(counted.any(), falls.sum() / fell.sum().clamp(min=1), torch.nan)
    return {"llds/lld_rate": share(fell, counted), "llds/lld_magnitude": magnitude, **rates}

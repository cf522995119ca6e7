r"""LLDS: the regularizer that keeps good trajectories from losing likelihood.

The paper's nouns are the names here: the **preserved set** (trajectories whose likelihood must not fall), and the
**gate** (where the penalty is active: per token, per response, per action). Answer masking (MA) comes in as a mask and
a weight, which `llds.losses.answer_masking` schedules.

Left out on purpose: finding the answer span, keeping the anchor's snapshot, and multiplying by lambda.
"""

import copy
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from llds.errors import ConfigurationError
from llds.losses.answer_masking import AnswerMasking
from llds.losses.loss import Loss, LossBatch, LossInputs, LossOutput
from llds.losses.masking import (
    Aggregation,
    action_mask,
    average,
    check_choice,
    check_positive,
    check_shapes,
    count,
    masked,
    masked_mean,
    sum_by_action,
)

Gate = Literal["token", "response", "action"]
"""``token``: everywhere in the preserved set; ``response``: where the response as a whole fell; ``action``: where the
action as a whole fell."""

Preserve = Literal["non_negative", "positive"]
"""``non_negative``: advantage >= 0 (the paper); ``positive``: advantage > 0, without the groups that have no signal."""

Anchor = Literal["old", "lagged", "frozen"]
"""What falls are measured from: ``old``, the policy at the start of the iteration; ``lagged``, an older snapshot;
``frozen``, the policy at the start of the run."""

LLD_RATE = "llds/lld_rate"
"""Share of the actions of correct trajectories whose likelihood fell in an iteration (`llds.metrics.displacement`)."""

_TOLERANCE, _STEP, _MOST = 1.5, 1.5, 16.0


def preserved_set(advantages: Tensor, preserve: Preserve) -> Tensor:
    """Trajectories whose likelihood must not fall.

    Args:
        advantages: ``[B]``.
        preserve: ``non_negative`` or ``positive``.

    Returns:
        ``[B]`` bool.
    """
    return advantages >= 0 if preserve == "non_negative" else advantages > 0


def llds_penalty(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    action_index: Tensor,
    *,
    gate: Gate = "action",
    preserve: Preserve = "non_negative",
    answer_mask: Tensor | None = None,
    answer_weight: float = 1.0,
    aggregation: Aggregation = "trajectory",
    denominator: float | Tensor | None = None,
) -> LossOutput:
    r"""Likelihood that preserved trajectories lost, where a gate is open.

    .. math::
        L = \frac{1}{|Y_{pre}|} \sum_{y \in Y_{pre}} \frac{1}{|y|} \sum_t
            \mathbb{1}\Big[\sum_k \Delta_{t,k} > 0\Big] \sum_k w_{t,k} \max(0, \Delta_{t,k}), \qquad
        \Delta_{t,k} = \ln \pi_{old}(y_{t,k}) - \ln \pi_\theta(y_{t,k})

    arXiv 2512.04220 v2, eq. 4 (action gate, as above); eq. 10 (response gate: the sum runs over all actions); eq. 9
    (token gate: always open). :math:`Y_{pre}` is the preserved set, :math:`|y|` the number of action tokens,
    :math:`\Delta` the likelihood lost (positive: fell). :math:`w` is the answer weight on the answer span, 1 elsewhere.

    Gradients flow to `log_probs` only, on fallen tokens inside an open gate only, and raise them; the gate carries
    none. The gradient on a fallen token does not shrink with its fall, so rounding between `log_probs` and
    `old_log_probs` acts like a real fall: on-policy, give the very same tensor for both, and the penalty is exactly 0.
    An empty mask or preserved set gives exactly 0 with a zero gradient.

    Args:
        log_probs: ``[B, T]``; anything off the actions.
        old_log_probs: Under the anchor, the old policy as a rule, ``[B, T]``; anything off the actions.
        advantages: ``[B]``; only their sign matters.
        action_index: Turn number of each action token, -1 elsewhere, ``[B, T]`` long.
        gate: Where the penalty is active: ``action``, ``response`` or ``token``.
        preserve: ``non_negative`` (advantage >= 0) or ``positive``.
        answer_mask: True on the tokens of the final answer span, ``[B, T]`` bool; None: no answer masking.
        answer_weight: :math:`\beta`, weight of these tokens, not negative. The gate does not see it.
        aggregation: ``trajectory`` as above; ``token``: one sum over **all** action tokens, those of trajectories
            outside the preserved set included.
        denominator: Global count (preserved trajectories with action tokens, or all action tokens); None: of these
            tensors.

    Returns:
        The loss in nats and, all detached, ``llds/open_share`` (share of preserved tokens inside an open gate),
        ``llds/fallen_share`` (share of preserved tokens that fell), ``llds/mean_fall`` (mean of ``max(0, Delta)``
        inside open gates, in nats), ``llds/open_gates`` (number of open actions, responses or tokens) and
        ``llds/preserved`` (number of preserved trajectories that have action tokens).

    Note:
        The paper averages per trajectory over the preserved set; the authors' code is ``aggregation="token"`` (per
        micro-batch; here over the whole mini-batch). Both preserve an advantage of 0.
    """
    check_choice("gate", gate, Gate)
    check_choice("preserve", preserve, Preserve)
    check_choice("aggregation", aggregation, Aggregation)
    check_shapes(action_index, log_probs=log_probs, old_log_probs=old_log_probs, advantages=advantages)
    mask = action_mask(action_index)
    is_preserved = preserved_set(advantages.detach(), preserve)
    inside = mask & is_preserved.unsqueeze(1)  # [B, T]
    delta = masked(old_log_probs.detach(), inside) - masked(log_probs, inside)
    is_open = inside & _is_open(delta.detach(), action_index, gate)
    fall = masked(delta, is_open).relu()  # relu, whose gradient at 0 is 0: a token that did not move is not pushed
    weighted = fall
    if answer_mask is not None:
        check_shapes(action_index, answer_mask=answer_mask)
        weighted = torch.where(answer_mask, answer_weight * fall, fall)
    if denominator is None:
        denominator = count(mask, aggregation, is_preserved)
    loss = average(weighted, mask, aggregation, denominator)
    metrics = {
        "llds/open_share": masked_mean(is_open.to(fall.dtype), inside),
        "llds/fallen_share": masked_mean((delta > 0).to(fall.dtype), inside),
        "llds/mean_fall": masked_mean(fall, is_open),
        "llds/open_gates": _count_gates(is_open, action_index, gate).to(fall.dtype),
        "llds/preserved": inside.any(1).sum().to(fall.dtype),
    }
    return LossOutput(loss, metrics)


def _is_open(delta: Tensor, action_index: Tensor, gate: Gate) -> Tensor:
    """Whether each token's gate is open, [B, T] or [B, 1]; `delta` is 0 outside the preserved set."""
    if gate == "token":
        return torch.ones_like(delta, dtype=torch.bool)
    if gate == "response":
        return delta.sum(1, keepdim=True) > 0
    return sum_by_action(delta, action_index).gather(1, action_index.clamp(min=0)) > 0


def _count_gates(is_open: Tensor, action_index: Tensor, gate: Gate) -> Tensor:
    """Number of open actions, responses or tokens."""
    if gate == "token":
        return is_open.sum()
    if gate == "response":
        return is_open.any(1).sum()
    return (sum_by_action(is_open.long(), action_index) > 0).sum()


class LLDSPenalty(Loss):
    """The LLDS regularizer (see `llds_penalty`).

    Args:
        coefficient: The paper's lambda, weight of the term in the objective. 0.2 in the paper (0.3 for the 7B instruct
            model); 0.01 only delays the collapse.
        gate: Where the penalty is active: ``action`` (where an action's likelihood fell), ``response`` (where the whole
            response's fell), ``token`` (everywhere).
        preserve: Trajectories to preserve: ``non_negative`` (advantage >= 0, the paper) or ``positive`` (> 0).
        anchor: What falls are measured from: ``old``, the policy at the start of the iteration (acts only with several
            optimizer steps per iteration), ``lagged``, a snapshot from earlier iterations, or ``frozen``, the policy at
            the start of the run.
        anchor_lag: Iterations between two snapshots of the lagged anchor.
        aggregation: ``trajectory``: mean over each trajectory's action tokens, then over the preserved set (the paper).
            ``token``: sum over all action tokens of the mini-batch (the authors' code).
        answer_masking: Schedule of the answer tokens' weight (LLDS-MA); null: answers weigh like all other tokens.
        target_rate: Lets lambda follow this LLD rate (``llds/lld_rate``, 0-1): where an iteration's is above 1.5 times
            it, lambda is multiplied by 1.5, where it is below two thirds of it, divided; at most by 16 in all. As the
            adaptive KL penalty of PPO (arXiv 1707.06347). Null: lambda stays.
    """

    name = "llds"

    def __init__(
        self,
        coefficient: float = 0.2,
        gate: Gate = "action",
        preserve: Preserve = "non_negative",
        anchor: Anchor = "old",
        anchor_lag: int = 4,
        aggregation: Aggregation = "trajectory",
        answer_masking: AnswerMasking | None = None,
        target_rate: float | None = None,
    ) -> None:
        super().__init__(coefficient)
        if target_rate is not None and not 0 < target_rate < 1:
            raise ConfigurationError(
                f"Expected `llds_penalty.target_rate` between 0 and 1, got {target_rate}. Plain GRPO has 0.2 to 0.5."
            )
        if target_rate is not None and coefficient == 0:
            raise ConfigurationError(
                "Expected a `llds_penalty.coefficient` above 0 where `target_rate` moves it, got 0. Raise it."
            )
        check_choice("gate", gate, Gate)
        check_choice("preserve", preserve, Preserve)
        check_choice("anchor", anchor, Anchor)
        check_positive("llds_penalty.anchor_lag", anchor_lag)
        check_choice("aggregation", aggregation, Aggregation)
        self.gate: Gate = gate
        self.preserve: Preserve = preserve
        self.anchor: Anchor = anchor
        self.anchor_lag = anchor_lag
        self.aggregation: Aggregation = aggregation
        self.answer_masking = answer_masking
        self.target_rate = target_rate
        self._lowest, self._highest = coefficient / _MOST, coefficient * _MOST

    def __call__(self, inputs: LossInputs, denominator: Tensor | None = None) -> LossOutput:
        """Compute `llds_penalty` of a micro-batch, against `inputs.anchor_log_probs`."""
        return llds_penalty(
            inputs.log_probs,
            inputs.anchor_log_probs,
            inputs.outcome,
            inputs.action_index,
            gate=self.gate,
            preserve=self.preserve,
            answer_mask=inputs.answer_mask,
            answer_weight=inputs.answer_weight,
            aggregation=self.aggregation,
            denominator=denominator,
        )

    def denominator(self, batch: LossBatch) -> Tensor:
        """Count the preserved trajectories with action tokens, or all action tokens."""
        rows = preserved_set(batch.outcome, self.preserve)
        return count(action_mask(batch.action_index), self.aggregation, rows)

    def answer_weight(self, metrics: Mapping[str, float]) -> float:
        """Weight beta of the final answer's tokens.

        Args:
            metrics: Of the iteration's rollout; ``rollout/tool_calls`` decides.
        """
        masking = self.answer_masking
        return 1.0 if masking is None else masking.weight(metrics["rollout/tool_calls"], self.coefficient)

    def with_lambda(self, coefficient: float, *, needs_lagged_anchor: bool) -> "LLDSPenalty":
        """The same with another weight.

        Args:
            coefficient: Above 0.
            needs_lagged_anchor: Whether an anchor at the old policy could never act; it becomes a lagged one.
        """
        penalty = copy.copy(self)
        penalty.coefficient = coefficient
        if needs_lagged_anchor and penalty.anchor == "old":
            penalty.anchor = "lagged"
        return penalty

    def adapted(self) -> dict[str, Any]:
        """Lambda, where it follows a target."""
        return {} if self.target_rate is None else {"coefficient": self.coefficient}

    def adapt(self, metrics: Mapping[str, float]) -> None:
        """Let lambda follow the LLD rate of the iteration, where there is a target and the iteration has a rate."""
        rate = metrics.get(LLD_RATE)
        if self.target_rate is None or rate is None:
            return
        if rate > _TOLERANCE * self.target_rate:
            self.coefficient = min(self.coefficient * _STEP, self._highest)
        elif rate < self.target_rate / _TOLERANCE:
            self.coefficient = max(self.coefficient / _STEP, self._lowest)

"""The objective of a mini-batch: policy loss + KL penalty + LLDS penalty, each over the whole mini-batch.

``L_total = L_policy + c_KL * L_KL + lambda * L_LLDS`` (arXiv 2512.04220 v2, eq. 4 ff.). Every term is divided by counts
of the whole mini-batch over all ranks, so that its gradient depends neither on the micro-batches nor on the padding.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from llds.data.policy_batch import PolicyBatch
from llds.losses import KLPenalty, LLDSPenalty, Loss, LossInputs

Reduce = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ObjectiveOutput:
    """A micro-batch's share of a mini-batch's loss.

    Attributes:
        loss: Scalar, differentiable; the shares of all micro-batches and ranks add up.
        terms: Shares of the terms, before their coefficients, detached; they add up too.
        signals: Detached means over the micro-batch's tokens, by metric path.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    signals: dict[str, Tensor]


@dataclass(frozen=True)
class Objective:
    """The terms of the loss.

    Attributes:
        policy_loss: GRPO, GSPO or another.
        kl_penalty: None leaves it out.
        llds_penalty: None leaves it out.
    """

    policy_loss: Loss
    kl_penalty: KLPenalty | None
    llds_penalty: LLDSPenalty | None

    @property
    def uses_reference(self) -> bool:
        """Whether log-probabilities of the reference are needed."""
        return self.kl_penalty is not None and self.kl_penalty.coefficient > 0

    @property
    def uses_lagged_anchor(self) -> bool:
        """Whether log-probabilities of a lagged anchor are needed."""
        return self.uses_llds and self.llds_penalty is not None and self.llds_penalty.anchor == "lagged"

    @property
    def uses_llds(self) -> bool:
        """Whether the LLDS penalty has a weight."""
        return self.llds_penalty is not None and self.llds_penalty.coefficient > 0

    def denominators(self, batch: PolicyBatch, reduce: Reduce) -> dict[str, Tensor]:
        """What each term divides by, summed over all ranks.

        Args:
            batch: This rank's share of the mini-batch.
            reduce: Sums a scalar over the ranks.
        """
        return {name: reduce(term.denominator(batch.advantages, batch.action_index)) for name, term in self._terms()}

    def __call__(
        self, log_probs: Tensor, batch: PolicyBatch, denominators: dict[str, Tensor], answer_weight: float = 1.0
    ) -> ObjectiveOutput:
        """A micro-batch's share of the mini-batch's loss.

        Args:
            log_probs: Of the policy, with gradient, ``[B, T]``.
            batch: The micro-batch.
            denominators: Of its mini-batch.
            answer_weight: Weight beta of the final answer's tokens in the LLDS penalty.

        """
        assert batch.old_log_probs is not None  # noqa: S101 (the module scores before it trains)
        inputs = LossInputs(
            log_probs=log_probs,
            old_log_probs=batch.old_log_probs,
            anchor_log_probs=batch.old_log_probs if batch.anchor_log_probs is None else batch.anchor_log_probs,
            ref_log_probs=batch.ref_log_probs,
            advantages=batch.advantages,
            action_index=batch.action_index,
            answer_mask=batch.answer_mask,
            answer_weight=answer_weight,
        )
        terms = self._terms()
        outputs = [term(inputs, denominators[name]) for name, term in terms]
        weighted = [term.coefficient * output.loss for (_, term), output in zip(terms, outputs, strict=True)]
        return ObjectiveOutput(
            loss=torch.stack(weighted).sum(),
            terms={name: output.loss.detach() for (name, _), output in zip(terms, outputs, strict=True)},
            signals={key: value for output in outputs for key, value in output.metrics.items()},
        )

    def _terms(self) -> list[tuple[str, Loss]]:
        terms: list[tuple[str, Loss | None]] = [
            ("policy", self.policy_loss),
            ("kl", self.kl_penalty if self.uses_reference else None),
            ("llds", self.llds_penalty if self.uses_llds else None),
        ]
        return [(name, term) for name, term in terms if term is not None]

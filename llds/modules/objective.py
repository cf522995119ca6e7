"""The objective of a mini-batch: policy loss + KL penalty + LLDS penalty + further terms, each over all of it.

``L_total = L_policy + c_KL * L_KL + lambda * L_LLDS`` (arXiv 2512.04220 v2, eq. 4 ff.). Every term is divided by counts
of the whole mini-batch over all ranks, so that its gradient depends neither on the micro-batches nor on the padding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llds.batches.loss_inputs import loss_batch, loss_inputs, with_observations
from llds.batches.policy_batch import PolicyBatch
from llds.losses import AnswerMasking, ImportanceCorrection, KLPenalty, LLDSPenalty, Loss, LossOutput, Selection, select


@dataclass(frozen=True)
class Objective:
    """The terms of the loss. One whose coefficient is 0 is left out, as if it were None.

    Attributes:
        policy_loss: GRPO, GSPO or another.
        kl_penalty: None leaves it out.
        llds_penalty: None leaves it out.
        importance: Corrects the policy loss for the gap to the sampler; None takes the sampler for the old policy.
        further: Terms beside these, by names of their own.
        selections: What the policy loss learns from; those that compare trajectories were made before.
    """

    policy_loss: Loss
    kl_penalty: KLPenalty | None
    llds_penalty: LLDSPenalty | None
    importance: ImportanceCorrection | None = None
    further: Sequence[Loss] = ()
    selections: Sequence[Selection] = ()

    @property
    def uses_reference(self) -> bool:
        """Whether log-probabilities of the reference are needed."""
        return self.kl_penalty is not None and self.kl_penalty.coefficient > 0

    @property
    def active_llds(self) -> LLDSPenalty | None:
        """The LLDS penalty if it has a weight."""
        return self.llds_penalty if self.llds_penalty is not None and self.llds_penalty.coefficient > 0 else None

    @property
    def answer_masking(self) -> AnswerMasking | None:
        """How the LLDS penalty treats final answers; None like all other actions."""
        return self.active_llds.answer_masking if self.active_llds else None

    def scored(self, batch: PolicyBatch) -> PolicyBatch:
        """A micro-batch as the policy has to score it: observations too, where a term reads them."""
        return with_observations(batch) if any(term.reads_observations for term in self.terms.values()) else batch

    def denominators(self, batch: PolicyBatch) -> dict[str, Tensor]:
        """What each term divides by.

        Args:
            batch: The whole mini-batch, not a rank's share of it.
        """
        return {name: term.denominator(loss_batch(batch)) for name, term in self.terms.items()}

    def loss(
        self, log_probs: Tensor, batch: PolicyBatch, denominators: Mapping[str, Tensor], answer_weight: float = 1.0
    ) -> Tensor:
        """A micro-batch's share of the mini-batch's loss: the shares of all micro-batches and ranks add up to it.

        Args:
            log_probs: Of the policy, with gradient, ``[B, T]``.
            batch: The micro-batch.
            denominators: Of its mini-batch.
            answer_weight: Weight beta of the final answer's tokens in the LLDS penalty.
        """
        outputs = self._evaluate(log_probs, batch, denominators, answer_weight)
        return torch.stack([term.coefficient * outputs[name].loss for name, term in self.terms.items()]).sum()

    @torch.no_grad()
    def signals(
        self, log_probs: Tensor, batch: PolicyBatch, denominators: Mapping[str, Tensor], answer_weight: float = 1.0
    ) -> dict[str, Tensor]:
        """What the terms say about a whole mini-batch, by metric path; the same whatever its micro-batches were.

        Args:
            log_probs: Of the policy, ``[B, T]``.
            batch: The mini-batch.
            denominators: Of the mini-batch.
            answer_weight: Weight beta of the final answer's tokens in the LLDS penalty.
        """
        outputs = self._evaluate(log_probs, batch, denominators, answer_weight)
        total = torch.stack([term.coefficient * outputs[name].loss for name, term in self.terms.items()]).sum()
        signals = {key: value for output in outputs.values() for key, value in output.metrics.items()}
        losses = {f"train/{name}_loss": output.loss for name, output in outputs.items()}
        return signals | losses | {"train/loss": total}

    def _evaluate(
        self, log_probs: Tensor, batch: PolicyBatch, denominators: Mapping[str, Tensor], answer_weight: float
    ) -> dict[str, LossOutput]:
        """Each term's share, before its coefficient."""
        local = [self.importance, *(one for one in self.selections if one.is_local)]
        inputs = select(loss_inputs(batch, log_probs, answer_weight), [one for one in local if one is not None])
        return {name: term(inputs, denominators[name]) for name, term in self.terms.items()}

    @property
    def terms(self) -> dict[str, Loss]:
        """By name, in order."""
        terms: list[tuple[str, Loss | None]] = [
            ("policy", self.policy_loss),
            ("kl", self.kl_penalty if self.uses_reference else None),
            ("llds", self.active_llds),
            *((term.name, term) for term in self.further if not term.is_off),
        ]
        return {name: term for name, term in terms if term is not None}

"""The objective of a mini-batch: policy loss + KL penalty + LLDS penalty, each over the whole mini-batch.

``L_total = L_policy + c_KL * L_KL + lambda * L_LLDS`` (arXiv 2512.04220 v2, eq. 4 ff.). Every term is divided by counts
of the whole mini-batch over all ranks, so that its gradient depends neither on the micro-batches nor on the padding.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llds.batches.policy_batch import PolicyBatch
from llds.losses import AnswerMasking, ImportanceCorrection, KLPenalty, LLDSPenalty, Loss, LossInputs, LossOutput


@dataclass(frozen=True)
class Objective:
    """The terms of the loss. A penalty whose coefficient is 0 is left out, as if it were None.

    Attributes:
        policy_loss: GRPO, GSPO or another.
        kl_penalty: None leaves it out.
        llds_penalty: None leaves it out.
        importance: Corrects the policy loss for the gap to the sampler; None takes the sampler for the old policy.
    """

    policy_loss: Loss
    kl_penalty: KLPenalty | None
    llds_penalty: LLDSPenalty | None
    importance: ImportanceCorrection | None = None

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

    def answer_weight(self, metrics: Mapping[str, float]) -> float:
        """Weight beta of the final answer's tokens in the LLDS penalty.

        Args:
            metrics: Of the iteration's rollout; ``rollout/tool_calls`` decides.
        """
        if self.active_llds is None or self.answer_masking is None:
            return 1.0
        return self.answer_masking.weight(metrics["rollout/tool_calls"], self.active_llds.coefficient)

    def with_lambda(self, coefficient: float, *, needs_lagged_anchor: bool) -> "Objective":
        """The same with another weight of the LLDS penalty, which is added where there is none.

        Args:
            coefficient: Above 0.
            needs_lagged_anchor: Whether an anchor at the old policy could never act.
        """
        penalty = copy.copy(self.llds_penalty or LLDSPenalty())
        penalty.coefficient = coefficient
        if needs_lagged_anchor:
            penalty.anchor = "lagged"
        return replace(self, llds_penalty=penalty)

    def denominators(self, batch: PolicyBatch) -> dict[str, Tensor]:
        """What each term divides by.

        Args:
            batch: The whole mini-batch, not a rank's share of it.
        """
        return {name: term.denominator(batch.advantages, batch.action_index) for name, term in self._terms()}

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
        return torch.stack([term.coefficient * outputs[name].loss for name, term in self._terms()]).sum()

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
        total = torch.stack([term.coefficient * outputs[name].loss for name, term in self._terms()]).sum()
        signals = {key: value for output in outputs.values() for key, value in output.metrics.items()}
        losses = {f"train/{name}_loss": output.loss for name, output in outputs.items()}
        return signals | losses | {"train/loss": total}

    def _evaluate(
        self, log_probs: Tensor, batch: PolicyBatch, denominators: Mapping[str, Tensor], answer_weight: float
    ) -> dict[str, LossOutput]:
        """Each term's share, before its coefficient."""
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
            weights=self._weights(batch),
        )
        return {name: term(inputs, denominators[name]) for name, term in self._terms()}

    def _weights(self, batch: PolicyBatch) -> Tensor | None:
        if self.importance is None or batch.old_log_probs is None:
            return None
        return self.importance.weights(batch.old_log_probs, batch.behavior_log_probs, batch.action_index)

    def _terms(self) -> list[tuple[str, Loss]]:
        terms: list[tuple[str, Loss | None]] = [
            ("policy", self.policy_loss),
            ("kl", self.kl_penalty if self.uses_reference else None),
            ("llds", self.active_llds),
        ]
        return [(name, term) for name, term in terms if term is not None]

"""The updates of an iteration: its trajectories become optimizer steps.

Epochs of mini-batches, a step for each; a mini-batch in micro-batches, a forward and backward for each. Every rank
knows all trajectories and computes its share of each mini-batch's micro-batches.

Left out on purpose: what the trajectories are scored with before (`llds.modules.search_agent`), the terms of the loss
(`llds.modules.objective`), and how gradients come about under DDP and ZeRO-3 (`llds.modules.gradients`).
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llds.batches import PolicyBatch
from llds.batches.loss_inputs import with_selection
from llds.batches.mini_batches import mini_batches
from llds.losses.masking import masked
from llds.modules.gradients import Gradients
from llds.modules.objective import Objective
from llds.modules.optimization import Optimization
from llds.modules.policy.policy import Policy, PolicyOutput
from llds.modules.update_record import UpdateRecord
from llds.strategies import rank, sum_over_ranks, world_size


@dataclass(frozen=True)
class PolicyUpdate:
    """Makes the optimizer steps of one iteration.

    Attributes:
        policy: What is trained.
        objective: The terms of the loss.
        optimization: Epochs and batch sizes.
        gradients: Makes gradients, and steps by them.
        mini_batches: Number of mini-batches in an epoch.
        seed: Non-negative numbers: of the order of mini-batches, together with the epoch.
        answer_weight: Weight beta of the final answer's tokens in the LLDS penalty.
    """

    policy: Policy
    objective: Objective
    optimization: Optimization
    gradients: Gradients
    mini_batches: int
    seed: tuple[int, ...]
    answer_weight: float = 1.0

    def run(self, batch: PolicyBatch) -> UpdateRecord:
        """Make all steps.

        Args:
            batch: The trajectories of the iteration, with advantages and scores.
        """
        record = UpdateRecord.of(batch, self.policy.score_dtype)
        for epoch in range(self.optimization.epochs):
            for rows in mini_batches(batch.groups, self.mini_batches, (*self.seed, epoch)):
                mini_batch = with_selection(batch.rows(rows), self.objective.selections)
                if not record.has_moved:
                    # The policy is still the old one. Scored in other micro-batches, its log-probs would differ by
                    # rounding, and LLDS, whose gradient does not shrink with the fall, would act on the noise.
                    mini_batch = replace(mini_batch, old_log_probs=None)
                self.step(mini_batch, rows, record)
        return record

    def step(self, batch: PolicyBatch, rows: Tensor, record: UpdateRecord) -> None:
        """One optimizer step on a mini-batch.

        Every rank knows the whole mini-batch and computes its share; what it saw is then everyone's.

        Args:
            batch: The mini-batch.
            rows: Its rows in the iteration.
            record: Is filled.
        """
        self.gradients.zero()
        denominators = self.objective.denominators(batch)
        seen, loss = self._forward_and_backward(batch, denominators)
        record.keep(rows, PolicyOutput(*(masked(one, batch.action_mask) for one in (seen.log_probs, seen.entropy))))
        batch = replace(batch, entropy=seen.entropy, old_log_probs=_first(batch.old_log_probs, seen.log_probs))
        taken = self.gradients.step(loss)
        signals = (
            {} if taken is None else self.objective.signals(seen.log_probs, batch, denominators, self.answer_weight)
        )
        record.steps.append({"train/nonfinite_step": float(taken is None), **(taken or {}), **signals})

    def _forward_and_backward(self, batch: PolicyBatch, denominators: dict[str, Tensor]) -> tuple[UpdateRecord, Tensor]:
        """This rank's micro-batches one by one; returns what all ranks saw, and the loss of the whole mini-batch."""
        loss = torch.zeros((), dtype=torch.float64, device=batch.input_ids.device)
        seen = UpdateRecord.of(batch, self.policy.score_dtype)
        limits, packed = self.optimization.micro_batch_limits, self.policy.shares_prefixes
        micro_batches = list(batch.micro_batches(limits, rank(), world_size(), packed=packed))
        for number, (rows, micro_batch) in enumerate(micro_batches, start=1):
            with self.gradients.of_micro_batch(is_last=number == len(micro_batches)) as forward:
                output: PolicyOutput = forward(self.objective.scored(micro_batch))  # of the action tokens, [b, t]
                # Before the weights have moved, this is the old policy
                old = _first(micro_batch.old_log_probs, output.log_probs.detach())
                micro_batch = replace(micro_batch, old_log_probs=old, entropy=output.entropy)
                share = self.objective.loss(output.log_probs, micro_batch, denominators, self.answer_weight)
                self.gradients.add(share)
            loss += share.detach()
            seen.keep(rows, output)
        return UpdateRecord(sum_over_ranks(seen.log_probs), sum_over_ranks(seen.entropy)), sum_over_ranks(loss)


def _first(known: Tensor | None, otherwise: Tensor) -> Tensor:
    return otherwise if known is None else known

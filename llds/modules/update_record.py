"""What the updates of an iteration saw of its trajectories, and the metrics that follow from it."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from llds.batches import PolicyBatch
from llds.metrics import Scalars, policy_metrics
from llds.modules.policy.policy import PolicyOutput


@dataclass
class UpdateRecord:
    """What the updates of an iteration saw, filled as they go.

    Attributes:
        log_probs: Of the policy in the last epoch, ``[B, T]``.
        entropy: In the last epoch, ``[B, T]``.
        steps: Metrics of each optimizer step.
    """

    log_probs: Tensor
    entropy: Tensor
    steps: list[Scalars] = field(default_factory=list)

    @classmethod
    def of(cls, batch: PolicyBatch, dtype: torch.dtype) -> "UpdateRecord":
        """An empty record for the rows of a batch."""
        empty = torch.zeros(batch.input_ids.shape, dtype=dtype, device=batch.input_ids.device)
        return cls(empty, empty.clone())

    @property
    def has_moved(self) -> bool:
        """Whether a step has been taken, so that the policy is no longer the old one."""
        return any(not step["train/nonfinite_step"] for step in self.steps)

    @property
    def skipped(self) -> int:
        """Number of steps that were not taken."""
        return sum(bool(step["train/nonfinite_step"]) for step in self.steps)

    @property
    def learning_rates(self) -> list[float]:
        """Of the steps that were taken."""
        return [float(step["train/learning_rate"]) for step in self.steps if "train/learning_rate" in step]

    def keep(self, rows: Tensor, output: PolicyOutput) -> None:
        """Keep what the policy said of some rows, ``[rows, at most T]``; a row too many is left out."""
        width = output.log_probs.shape[1]
        self.log_probs[rows, :width] = output.log_probs[: len(rows)].detach().to(self.log_probs.dtype)
        self.entropy[rows, :width] = output.entropy[: len(rows)].detach().to(self.entropy.dtype)

    def policy_metrics(self, batch: PolicyBatch, answered: Tensor) -> dict[str, float]:
        """The signals of the policy (`llds.metrics.policy_metrics`).

        Args:
            batch: What was trained on, with log-probabilities of the old policy.
            answered: Whether each trajectory's last action is an answer, ``[B]`` bool.
        """
        assert batch.old_log_probs is not None  # noqa: S101 (scored before the updates, or by the only one)
        return policy_metrics(
            old_log_probs=batch.old_log_probs,
            new_log_probs=self.log_probs,
            behavior_log_probs=batch.behavior_log_probs,
            entropy=self.entropy,
            action_index=batch.action_index,
            answered=answered,
            correct=batch.correct,
            ref_log_probs=batch.ref_log_probs,
        )

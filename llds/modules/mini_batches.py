"""Which trajectories go into which optimizer step, and what the updates of an iteration saw."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from llds.batches import PolicyBatch
from llds.metrics import Scalars
from llds.modules.policy.policy import PolicyOutput


def mini_batches(groups: Tensor, count: int, seed: Sequence[int]) -> list[Tensor]:
    """Share out the rows of an iteration: whole groups, in an order that the seed fixes.

    Args:
        groups: Group number of each row, 0 to the number of groups - 1, ``[B]`` long.
        count: Number of mini-batches; fewer where there are fewer groups.
        seed: Non-negative numbers.

    Returns:
        Row numbers of each mini-batch, ascending, on the device of `groups`.
    """
    order = torch.from_numpy(np.random.default_rng(list(seed)).permutation(int(groups.max()) + 1)).to(groups.device)
    return [torch.isin(groups, part).nonzero()[:, 0] for part in order.tensor_split(min(count, len(order)))]


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

    def keep(self, rows: Tensor, output: PolicyOutput) -> None:
        """Keep what the policy said of some rows, ``[rows, at most T]``; a row too many is left out."""
        width = output.log_probs.shape[1]
        self.log_probs[rows, :width] = output.log_probs[: len(rows)].detach().to(self.log_probs.dtype)
        self.entropy[rows, :width] = output.entropy[: len(rows)].to(self.entropy.dtype)

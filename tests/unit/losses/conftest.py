"""Random batches for the losses, in float64."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from llds.losses import LossInputs


@dataclass(frozen=True)
class Batch:
    """Trajectories as the losses see them: B rows, T columns, prompts, actions, observations and padding."""

    log_probs: Tensor
    old_log_probs: Tensor
    ref_log_probs: Tensor
    advantages: Tensor
    action_index: Tensor
    answer_mask: Tensor

    def rows(self, rows: list[int] | slice) -> "Batch":
        """Some trajectories, in that order."""
        return Batch(*(value[rows] for value in vars(self).values()))

    def padded(self, left: int, right: int, fill: float) -> "Batch":
        """The same trajectories with more tokens off the actions."""
        off = {"action_index": -1, "answer_mask": False}
        wide = {
            name: torch.nn.functional.pad(value, (left, right), value=off.get(name, fill))
            for name, value in vars(self).items()
            if name != "advantages"
        }
        return replace(self, **wide)

    def filled(self, fill: float) -> "Batch":
        """The same trajectories with something else in every log-prob off the actions."""
        mask = self.action_index >= 0
        names = ("log_probs", "old_log_probs", "ref_log_probs")
        return replace(self, **{name: torch.where(mask, getattr(self, name), fill) for name in names})

    def inputs(self) -> LossInputs:
        """The batch as losses take it, with a lagged anchor that differs from the old policy."""
        return LossInputs(
            log_probs=self.log_probs,
            old_log_probs=self.old_log_probs,
            anchor_log_probs=self.old_log_probs + 0.1,
            advantages=self.advantages,
            action_index=self.action_index,
            ref_log_probs=self.ref_log_probs,
            answer_mask=self.answer_mask,
            answer_weight=0.5,
        )


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    """Make a random batch: negative, zero and positive advantages, a row without actions, 1 to 3 turns each."""

    def make(seed: int = 0, n_rows: int = 7, n_tokens: int = 14, spread: float = 0.4) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        old = -3 * torch.rand(n_rows, n_tokens, generator=generator, dtype=torch.float64)
        noise = torch.randn(2, n_rows, n_tokens, generator=generator, dtype=torch.float64)
        advantages = torch.randn(n_rows, generator=generator, dtype=torch.float64)
        advantages[0], advantages[2] = 0.0, 1.3
        index = torch.full((n_rows, n_tokens), -1)
        for row in range(n_rows - 1):  # the last row never acts
            start = 2
            for turn in range(1 + row % 3):
                length = 1 + int(torch.randint(3, (), generator=generator))
                index[row, start : start + length] = turn
                start += length + 1
        answer = (index == index.amax(1, keepdim=True)) & (index >= 0)
        return Batch(old + spread * noise[0], old, old + spread * noise[1], advantages, index, answer)

    return make

"""The signals of likelihood for a trainer that does not log any: what a detector needs to see a collapse early.

While an iteration is trained on, the log-probabilities that the updates compute anyway are kept. After it a few of its
trajectories and a fixed set of early correct ones are scored once more, within a budget of time.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from llds.metrics import displacement_metrics, policy_metrics
from llds.metrics.averages import masked_mean
from llds.monitor.sources.vocabulary import BROUGHT

ITERATIONS = 5
"""Iterations with correct trajectories after which the fixed set is closed, however small."""


class Sample(NamedTuple):
    """A trajectory without padding.

    Attributes:
        prompt: Its token ids, ``[P]``.
        completion: Those after it, ``[C]``.
        action_index: Turn number of each action token of the completion, -1 elsewhere, ``[C]``.
        is_correct: Whether it is correct.
    """

    prompt: Tensor
    completion: Tensor
    action_index: Tensor
    is_correct: bool


Score = Callable[[Sequence[Sample]], Tensor]
"""Log-probabilities of the completions of samples under the policy as it is now, ``[B, longest C]``."""


class Likelihood:
    """Keeps what it takes, and computes.

    Args:
        size: Trajectories of an iteration that are scored once more; half as many are the fixed set.
        budget: Share of the training's time that this may take, 0-1; iterations are left out to keep it.

    Attributes:
        early: The fixed set; grows for the first iterations and is the same from then on.
        spent_s: Seconds of scoring so far.
    """

    def __init__(self, size: int = 8, budget: float = 0.02) -> None:
        self.size, self.budget = size, budget
        self.early: list[Sample] = []
        self.spent_s = 0.0
        self._cost_s = 0.0
        self._is_early_complete = False
        self._iterations = 0
        self._started = time.perf_counter()
        self._chosen: list[int] = []
        self._samples: list[Sample] = []
        self._action_index = self._correct = torch.empty(0)
        self._old = self._new = self._entropy = torch.empty(0)
        self._is_seen = torch.empty(0, dtype=torch.bool)

    @property
    def share(self) -> float:
        """Share of the time since the first iteration that scoring took."""
        return self.spent_s / max(time.perf_counter() - self._started, 1e-9)

    @property
    def is_due(self) -> bool:
        """Whether the budget lets this iteration's trajectories be scored, at the cost of the last; two always are."""
        elapsed = time.perf_counter() - self._started
        return self._iterations <= 2 or self.spent_s + self._cost_s <= self.budget * elapsed

    def begin(self, samples: Sequence[Sample], action_index: Tensor, group: int) -> None:
        """Take in an iteration.

        Args:
            samples: All its trajectories, groups together, by the row that they have in ``action_index``.
            action_index: Turn number on action tokens, -1 elsewhere, ``[B, C]``.
            group: Trajectories of a group.
        """
        if not self._iterations:
            self._started = time.perf_counter()
        self._iterations += 1
        self._correct = torch.tensor([one.is_correct for one in samples], device=action_index.device)
        self._action_index = action_index
        self._old = torch.zeros(action_index.shape, device=action_index.device)
        self._new, self._entropy = self._old.clone(), self._old.clone()
        self._is_seen = torch.zeros(len(samples), dtype=torch.bool, device=action_index.device)
        self._chosen = _informative_first(samples, group)[: self.size]
        self._samples = [samples[row] for row in self._chosen]
        self._collect(samples, group)

    def see(self, rows: Tensor, old: Tensor, new: Tensor, entropy: Tensor) -> None:
        """Take in what an update computed.

        Args:
            rows: Of its trajectories in the iteration, ``[b]``.
            old: Log-probabilities at the start of the iteration, ``[b, C]``.
            new: Under the policy before this update, ``[b, C]``.
            entropy: Likewise, ``[b, C]``.
        """
        first = rows[~self._is_seen[rows]]
        fresh = ~self._is_seen[rows]
        self._old[first] = old[fresh].detach().to(self._old.dtype)
        self._is_seen[rows] = True
        self._new[rows] = new.detach().to(self._new.dtype)
        self._entropy[rows] = entropy.detach().to(self._entropy.dtype)

    def measure(self, score: Score | None) -> dict[str, float]:
        """The signals of the iteration, after its last update; what is undefined is left out.

        Args:
            score: To score trajectories once more; None: what needs that is left out.
        """
        started = time.perf_counter()
        seen, answered = self._is_seen, torch.ones(len(self._correct), dtype=torch.bool)
        values = policy_metrics(
            old_log_probs=self._old[seen],
            new_log_probs=self._new[seen],
            behavior_log_probs=self._old[seen],
            entropy=self._entropy[seen],
            action_index=self._action_index[seen],
            answered=answered[: int(seen.sum())],
            correct=self._correct[seen],
        )
        values |= {} if score is None or not self._samples else self._rescored(score)
        cost = time.perf_counter() - started
        self.spent_s += cost
        self._cost_s = cost if score is not None else self._cost_s
        return {name: value for name, value in values.items() if name in BROUGHT}

    def _rescored(self, score: Score) -> dict[str, float]:
        early = self.early if self._is_early_complete else []
        after = score([*self._samples, *early]).to(self._old.dtype)
        width = after.shape[1]
        index = torch.full(after.shape, -1, dtype=torch.long, device=after.device)
        for row, one in enumerate((*self._samples, *early)):
            index[row, : len(one.action_index)] = one.action_index.to(after.device)
        own = slice(0, len(self._samples))
        chosen = torch.tensor(self._chosen, device=after.device)
        before = torch.nn.functional.pad(self._old[chosen], (0, max(0, width - self._old.shape[1])))[:, :width]
        values = displacement_metrics(
            before=before,
            after=after[own],
            action_index=index[own],
            answered=torch.ones(len(self._samples), dtype=torch.bool),
            correct=self._correct[chosen],
        )
        if early:
            rest = slice(len(self._samples), None)
            values["policy/probe_log_likelihood"] = float(masked_mean(after[rest], index[rest] >= 0))
        return values

    def _collect(self, samples: Sequence[Sample], group: int) -> None:
        """Add correct trajectories to the fixed set, of as many questions as possible."""
        if self._is_early_complete:
            return
        correct = [row for row, one in enumerate(samples) if one.is_correct and bool((one.action_index >= 0).any())]
        first = list({row // group: row for row in reversed(correct)}.values())[::-1]
        others = [row for row in correct if row not in first]
        room = self.size // 2 - len(self.early)
        self.early += [samples[row] for row in (*first, *others)[:room]]
        is_old = self._iterations >= ITERATIONS and bool(self.early)
        self._is_early_complete = len(self.early) >= self.size // 2 or is_old


def _informative_first(samples: Sequence[Sample], group: int) -> list[int]:
    """Rows, those of groups with correct and other trajectories first."""
    groups = [range(start, min(start + group, len(samples))) for start in range(0, len(samples), group)]

    def is_mixed(rows: Sequence[int]) -> bool:
        return len({samples[row].is_correct for row in rows}) == 2

    return [row for rows in sorted(groups, key=lambda rows: not is_mixed(rows)) for row in rows]

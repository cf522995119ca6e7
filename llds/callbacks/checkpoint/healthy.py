"""Which checkpoints of a run are healthy: made when the monitor said nothing, and followed by more such iterations.

Pure bookkeeping by iteration numbers. A policy that is about to collapse looks healthy for a while: hence the wait.
"""

from collections.abc import Mapping
from typing import Any


class HealthyCheckpoints:
    """Keeps the newest healthy ones.

    Args:
        quiet: Quiet iterations that must follow.
        keep: Number that is kept.

    Attributes:
        healthy: Iterations of the healthy checkpoints, oldest first.
        pending: Iterations of those that are not followed by enough quiet iterations yet: the oldest and the newest, so
            that their number is bounded.
        first: Of the first quiet one, while none is healthy: a policy that breaks within the first iterations can only
            begin again.
    """

    def __init__(self, quiet: int, keep: int) -> None:
        self.quiet = quiet
        self.keep = keep
        self.healthy: list[int] = []
        self.pending: list[int] = []
        self.first: int | None = None

    def note(self, iteration: int, *, is_quiet: bool) -> None:
        """Take in an iteration, before it is saved."""
        if not is_quiet:
            self.pending = []
        elif self.pending and iteration - self.pending[0] >= self.quiet:
            self.healthy = [*self.healthy, self.pending.pop(0)][-self.keep :]

    def saved(self, iteration: int, *, is_quiet: bool) -> None:
        """Take in that an iteration is saved."""
        if is_quiet and self.keep > 0:
            self.pending = [*self.pending[:1], iteration]
            self.first = iteration if self.first is None else self.first

    def lacks(self, *, is_quiet: bool) -> bool:
        """Whether there is nothing to go back to, not even a candidate, and the iteration would be one."""
        return is_quiet and self.keep > 0 and not self.healthy and not self.pending

    @property
    def needed(self) -> set[int]:
        """Iterations whose checkpoints must stay."""
        last_resort = set() if self.healthy or self.first is None else {self.first}
        return {*self.healthy, *self.pending} | last_resort

    def take(self, present: set[int]) -> int | None:
        """The one to go back to: the newest; without a newer one until then, the next time the one before.

        Where none is healthy, the first of the run.

        Args:
            present: Iterations of the checkpoints that are on disk.
        """
        self.healthy = [one for one in self.healthy if one in present]
        if not self.healthy:
            return self.first if self.first in present else None
        newest = self.healthy[-1]
        self.healthy = self.healthy[:-1] or self.healthy
        return newest

    def state_dict(self) -> dict[str, Any]:
        """What it knows."""
        return {"healthy": self.healthy, "pending": self.pending, "first": self.first}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.healthy, self.pending, self.first = list(state["healthy"]), list(state["pending"]), state["first"]

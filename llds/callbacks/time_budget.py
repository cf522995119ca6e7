"""A share of a run's time that side work may take: what is cheap beside it is done often, what is dear rarely."""

from dataclasses import dataclass


@dataclass
class TimeBudget:
    """Says when the next piece of work fits. Times are seconds of any one clock.

    Attributes:
        share: Of the time since the start that all pieces together may take.
        started: When the run began.
        expected: What the next piece may take: as long as the last one did; a guess before the first.
        spent: On all pieces so far.
    """

    share: float
    started: float
    expected: float
    spent: float = 0.0

    def allows(self, now: float) -> bool:
        """Whether another piece fits by now."""
        return self.spent + self.expected <= self.share * (now - self.started)

    def charge(self, seconds: float) -> None:
        """Put a piece on the account."""
        self.spent += seconds
        self.expected = seconds

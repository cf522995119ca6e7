"""Which rows of a log are one iteration: trainers that log every optimizer step log a reward with one step of several.

How many steps an iteration has shows in the rows between two rewards, the least of them. With one row per iteration,
and in a log without a reward, every row is one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from llds.monitor.signals import REWARD

Row = Mapping[str, float]


@dataclass
class Rhythm:
    """Collects the rows of an iteration.

    Attributes:
        every: Least rows from one reward to the next; None before there are two.
        since: Rows since the last reward; None before the first.
        waiting: Rows without a reward that belong to the next that has one.
    """

    every: int | None = None
    since: int | None = None
    waiting: list[dict[str, float]] = field(default_factory=list)

    def add(self, row: Row, *, at_once: bool = False) -> Row | None:
        """Take in a row.

        Args:
            row: Its signals.
            at_once: Not to wait for the others of the iteration.

        Returns:
            The means of an iteration's rows; None while others of it are to come.
        """
        self.since = None if self.since is None else self.since + 1
        if REWARD in row:
            if self.since is not None:
                self.every = self.since if self.every is None else min(self.every, self.since)
            self.since = 0
        elif not at_once and self.since is not None and self.every is not None and self.since % self.every:
            self.waiting.append(dict(row))
            return None
        rows, self.waiting = [*self.waiting, row], []
        return row if len(rows) == 1 else _means(rows)


def _means(rows: Sequence[Row]) -> dict[str, float]:
    names = dict.fromkeys(name for row in rows for name in row)
    found = {name: [row[name] for row in rows if name in row] for name in names}
    return {name: sum(values) / len(values) for name, values in found.items()}

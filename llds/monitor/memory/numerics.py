"""Values that are no numbers: NaN and infinity in what a training must not have them in."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from llds.monitor import signals as s

WATCHED = (s.LOSS, s.GRAD_NORM, s.REWARD, s.ENTROPY, s.KL_REF, s.RATIO_P99)
"""Elsewhere NaN may mean that there was nothing to take a mean of."""
WINDOW = 10
"""Rows that are looked back on."""
LASTING = 3
"""Rows of them from which it is no accident: in fp16 a single step is skipped now and then."""


@dataclass
class Numerics:
    """Which of the last rows were not finite, and where.

    Attributes:
        recent: Positions of rows that were not, of the last `WINDOW`.
        first: Iteration of the first since it began; -1 while there is none.
        names: The signals that were not finite then, and since.
        total: Such rows of the run.
    """

    recent: list[int] = field(default_factory=list)
    first: int = -1
    names: list[str] = field(default_factory=list)
    total: int = 0

    def update(self, position: int, iteration: int, row: Mapping[str, float]) -> None:
        """Take in the row at a position."""
        self.recent = [one for one in self.recent if position - one < WINDOW]
        if not self.recent:
            self.first, self.names = -1, []
        broken = [name for name in WATCHED if name in row and not math.isfinite(row[name])]
        if row.get(s.NONFINITE, 0.0) > 0:
            broken.append(s.NONFINITE)
        if broken:
            self.recent.append(position)
            self.first = iteration if self.first < 0 else self.first
            self.names = list(dict.fromkeys([*self.names, *broken]))
            self.total += 1

    @property
    def is_any(self) -> bool:
        """Whether there was one of late."""
        return bool(self.recent)

    @property
    def is_lasting(self) -> bool:
        """Whether there were too many for an accident."""
        return len(self.recent) >= LASTING

    @property
    def words(self) -> str:
        """What is seen."""
        return (
            f"{len(self.recent)} of the last {WINDOW} rows are not finite (NaN, infinity, or skipped steps) in "
            f"{', '.join(self.names)}, first at iteration {self.first}"
        )

"""One signal over time, in constant memory: baseline, noise, averages at two speeds, and their best so far."""

import math
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any

WINDOW = 24
"""Values kept to estimate the noise and short trends."""
MAD_TO_SD = 1.4826
"""A normal distribution's standard deviation over its median absolute deviation."""


@dataclass
class Average:
    """An exponential moving average, corrected for its start, and the highest and lowest value it had.

    Attributes:
        weight: Of the newest value, 0-1.
        total: Weighted sum of the values.
        mass: Sum of their weights.
        highest: Of the averages since the warm-up; None before it is over.
        lowest: Likewise.
    """

    weight: float
    total: float = 0.0
    mass: float = 0.0
    highest: float | None = None
    lowest: float | None = None

    @property
    def value(self) -> float:
        """The average; only after the first value."""
        return self.total / self.mass

    def add(self, value: float, *, is_warm: bool) -> None:
        """Add a value; the extremes count only once it ``is_warm``."""
        self.total += self.weight * (value - self.total)
        self.mass += self.weight * (1 - self.mass)
        if is_warm:
            self.highest = self.value if self.highest is None else max(self.highest, self.value)
            self.lowest = self.value if self.lowest is None else min(self.lowest, self.value)


@dataclass
class Track:
    """A signal's history, as far as the detector needs it.

    Attributes:
        count: Values so far.
        baseline: The values of the warm-up.
        recent: The last `WINDOW` values.
        fast: Average over about 6 iterations.
        slow: Average over about 20 iterations.
        usual_noise: Average noise over about 100 iterations: the noise of a short window is small by luck now and then.
        seen_at: Position (row) of the last value.
    """

    count: int = 0
    baseline: list[float] = field(default_factory=list)
    recent: list[float] = field(default_factory=list)
    fast: Average = field(default_factory=lambda: Average(0.3))
    slow: Average = field(default_factory=lambda: Average(0.1))
    usual_noise: Average = field(default_factory=lambda: Average(0.12))
    seen_at: int = -1

    def add(self, position: int, value: float, warmup: int) -> None:
        """Add the (finite) value of the row at a position."""
        self.seen_at = position
        self.count += 1
        if len(self.baseline) < warmup:
            self.baseline.append(value)
        self.recent = [*self.recent[1 - WINDOW :], value]
        if self.count % (WINDOW // 4) == 0:
            self.usual_noise.add(self._window_noise(), is_warm=False)
        self.fast.add(value, is_warm=self.count >= warmup)
        self.slow.add(value, is_warm=self.count >= 2 * warmup)

    @property
    def last(self) -> float:
        """The newest value."""
        return self.recent[-1]

    @property
    def center(self) -> float:
        """Median of the warm-up."""
        return median(self.baseline)

    @property
    def noise(self) -> float:
        """Robust standard deviation of one value around the trend."""
        window = self._window_noise()
        return window if self.count <= WINDOW else max(window, self.usual_noise.value)

    def _window_noise(self) -> float:
        """From differences of neighbours in the window."""
        steps = [abs(after - before) for before, after in pairwise(self.recent)]
        return MAD_TO_SD * median(steps) / math.sqrt(2) if steps else 0.0

    def state(self) -> dict[str, Any]:
        """Everything, as plain numbers and lists."""
        return asdict(self)

    @classmethod
    def restore(cls, state: dict[str, Any]) -> "Track":
        """The track that gave this state."""
        averages = {name: Average(**state[name]) for name in ("fast", "slow", "usual_noise")}
        return cls(**state | averages)

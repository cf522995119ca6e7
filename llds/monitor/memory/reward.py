"""Whether the reward falls, in units of its own noise and of what it has gained: the same for ``a * reward + b``.

The reward is smoothed at five speeds. A fall counts at one of them when it exceeds so many standard errors *and* half
of what the run has gained since its start; what luck explains of a peak is taken off first. That is the base of every
alarm about the reward. Where the log has the likelihood of correct responses, votes about it lower the number of
standard errors (`RewardWatch.falls_with`), in exchange for a larger share of the gain.

Noise is estimated from the mean absolute difference of neighboring rows, which a trend and a single jump hardly touch.
"""

import math
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any

from llds.monitor.memory.track import WINDOW, Average

MEDIAN_OF = 7
"""Rows of the running median: short enough to be soon, long enough for single rows not to matter."""
QUICK = 3
"""Rows of the quick one, for falls that are too large to wait for."""
JUDGED_FROM = 6
"""Rows from which the noise is known well enough."""
MEDIAN_ERROR = 1.2533
"""Standard error of a median over that of a mean, for normal noise."""
MEAN_DIFFERENCE = 2 / math.sqrt(math.pi)
"""Mean absolute difference of two normal values over their standard deviation."""
AGAIN = 1
"""How often the largest step counts again."""
SHARE_OF_GAIN = 0.5
"""Of what the run has gained, the share whose loss an alarm needs."""
SHARE_WITH_LIKELIHOOD = 0.75
SHARE_LOST = 0.8
"""Of what the run has gained, the share whose loss is a collapse."""
MATERIAL = 0.05
"""Share of the range that a log states (`reward/lowest`, `reward/highest`) up to which a fall does not matter."""
CONSTANT = 5
"""Rows with the same value that are the least for a constant reward."""
BY_LUCK = 0.01
ROUNDING = 1e-6
"""Share of the range within which two rewards are the same."""
PRECISION = 1e-9
"""Share of the largest reward up to which a fall is one of the arithmetic."""
ENDS_AT = 0.5
"""Share of what started a fall at which it ends."""


@dataclass
class Level:
    """The reward at one speed, and the highest it was.

    Attributes:
        window: Values that it averages over, roughly.
        needed: Standard errors that a fall must exceed.
        lasting: Rows for which it must.
        warm: Values before the first counts.
        value: Now.
        first: The first that counted; None before.
        highest: Since then.
        count: Values so far.
        rows: Rows in a row with a fall.
        falls: Whether it falls.
    """

    window: float
    needed: float
    lasting: int
    warm: int
    value: float = 0.0
    first: float | None = None
    highest: float | None = None
    count: int = 0
    rows: int = 0
    falls: bool = False

    def add(self, value: float) -> None:
        """Take in the newest smoothed value."""
        self.value, self.count = value, self.count + 1
        if self.count >= self.warm:
            self.first = value if self.first is None else self.first
            self.highest = value if self.highest is None else max(self.highest, value)

    def error(self, noise: float) -> float:
        """Standard error of the smoothed value."""
        factor = MEDIAN_ERROR if self.window in (QUICK, MEDIAN_OF) else 1.0
        return factor * noise / math.sqrt(max(1.0, min(self.count, self.window)))

    def peak(self, noise: float) -> float:
        """The highest, less what luck explains: the expected maximum of independent normal values is sqrt(2 ln n)."""
        independent = max(1.0, self.count / self.window)
        lucky = self.error(noise) * math.sqrt(2 * math.log(independent))
        return self.value if self.highest is None else self.highest - lucky

    def fall(self, noise: float) -> float:
        """How far it is below that peak."""
        return max(0.0, self.peak(noise) - self.value)

    def gain(self, noise: float) -> float:
        """What the run had gained at that peak."""
        return 0.0 if self.first is None else max(0.0, self.peak(noise) - self.first)

    def exceeds(self, noise: float, errors: float, share: float, least: float) -> bool:
        """Whether the fall exceeds all three."""
        fall = self.fall(noise)
        return fall > least and fall >= errors * self.error(noise) and fall >= share * self.gain(noise)

    def judge(self, noise: float, least: float, strictness: float) -> None:
        """See whether the fall begins, lasts or ends."""
        needed = strictness * self.needed
        if self.falls:
            self.falls = self.exceeds(noise, ENDS_AT * needed, ENDS_AT * SHARE_OF_GAIN, ENDS_AT * least)
        self.rows = self.rows + 1 if self.exceeds(noise, needed, SHARE_OF_GAIN, least) else 0
        self.falls = self.falls or self.rows >= self.lasting


def _levels() -> dict[str, Level]:
    return {
        "quick": Level(QUICK, 6.0, lasting=1, warm=3),
        "median": Level(MEDIAN_OF, 4.0, lasting=3, warm=5),
        "fast": Level(2 / 0.3 - 1, 4.5, lasting=3, warm=5),
        "slow": Level(20, 5.0, lasting=3, warm=10),
        "slowest": Level(72, 5.0, lasting=12, warm=36),
    }


@dataclass
class RewardWatch:
    """The reward's history, as far as its falls need it; constant memory.

    Attributes:
        strictness: Factor of all standard errors that are asked for.
        recent: The last `WINDOW` values.
        usual_noise: Average noise over a long time: that of a short window is small by luck now and then.
        levels: The reward at five speeds, by name.
        averages: Behind three of them.
        lowest: Least value so far.
        highest: Largest value so far.
        bounds: Least and largest reward of a trajectory that the log has stated; none where it states none.
        same: Rows in a row, up to the last, with the same value.
        pairs: Pairs of neighboring rows before those.
        ties: Pairs among them with the same value.
        back: Rows in a row in which the running median was back at the slow average's peak.
    """

    strictness: float = 1.0
    recent: list[float] = field(default_factory=list)
    usual_noise: Average = field(default_factory=lambda: Average(0.12))
    levels: dict[str, Level] = field(default_factory=_levels)
    averages: dict[str, Average] = field(
        default_factory=lambda: {"fast": Average(0.3), "slow": Average(2 / 21), "slowest": Average(2 / 73)}
    )
    lowest: float = math.inf
    highest: float = -math.inf
    bounds: list[float] = field(default_factory=list)
    same: int = 0
    pairs: int = 0
    ties: int = 0
    back: int = 0

    @property
    def count(self) -> int:
        """Values so far."""
        return self.levels["median"].count

    @property
    def noise(self) -> float:
        """Standard deviation of one value around the trend, on the safe side."""
        # The largest step counts again: rewards of few trajectories near their bound do not move for a while by luck
        return self._noise(AGAIN)

    def add(self, value: float, bounds: tuple[float, float] | None = None) -> None:
        """Take in the (finite) reward of a row, and the least and largest of its trajectories where they are known."""
        self._count_ties(value)
        self.recent = [*self.recent[1 - WINDOW :], value]
        self.lowest, self.highest = min(self.lowest, value), max(self.highest, value)
        if bounds is not None:
            self.bounds = [min([*self.bounds, *bounds]), max([*self.bounds, *bounds])]
        if (self.count + 1) % (WINDOW // 4) == 0:
            self.usual_noise.add(self._window_noise(0), is_warm=False)
        self.levels["quick"].add(median(self.recent[-QUICK:]))
        self.levels["median"].add(median(self.recent[-MEDIAN_OF:]))
        for name, average in self.averages.items():
            average.add(value, is_warm=False)
            self.levels[name].add(average.value)
        if self.count >= JUDGED_FROM:
            for level in self.levels.values():
                level.judge(self.noise, self._least(), self.strictness)
            self._recover()

    @property
    def falls(self) -> bool:
        """Whether it falls by what the reward alone shows."""
        return any(level.falls for level in self.levels.values())

    def falls_with(self, errors: float, share: float) -> bool:
        """Whether it falls now by so many standard errors and that share of the gain, with other evidence beside it."""
        two, noise = (self.levels["fast"], self.levels["slow"]), self._noise(0)
        return any(level.exceeds(noise, self.strictness * errors, share, self._least()) for level in two)

    @property
    def is_constant(self) -> bool:
        """Whether it has had one value for so long that luck does not explain it, and is not at its best.

        Rewards of few trajectories take few values, and the same ones follow each other now and then: by how often they
        did before, and by how often this one came up (but for the lowest: a policy that has lost all gets it often), a
        stretch as long as this one would come up in less than one of a hundred such runs.
        """
        chance = max((self.ties + 1) / (self.pairs + 2), self._usual_share())
        expected = self.count * chance ** (self.same - 1)
        return self.same >= CONSTANT and expected < BY_LUCK and not self._is_solved()

    @property
    def errors(self) -> float:
        """The fall in standard errors, at the speed that shows it best."""
        noise = self.noise
        return max(
            (level.fall(noise) / error for level in self.levels.values() if (error := level.error(noise)) > 0),
            default=0.0,
        )

    @property
    def is_lost(self) -> bool:
        """Whether most of what was gained is lost, and more than twice what an alarm needs."""
        level = self.levels["median"]
        return level.exceeds(self.noise, 2 * level.needed, SHARE_LOST, self._least())

    @property
    def is_half_back(self) -> bool:
        """Whether less than half of what was gained is lost, or hardly more than noise explains."""
        level = self.levels["median"]
        return not level.exceeds(self.noise, level.needed, SHARE_OF_GAIN, self._least())

    @property
    def peak(self) -> float:
        """The smoothed peak; only after the first value."""
        level = self.levels["median"]
        return level.value if level.highest is None else level.highest

    @property
    def now(self) -> float:
        """The smoothed value; only after the first."""
        return self.levels["median"].value

    def _recover(self) -> None:
        """End slow falls once the median has been back at the slow peak for a while: averages forget slowly."""
        noise, median_now, slow = self.noise, self.levels["median"], self.levels["slow"]
        is_back = median_now.value >= slow.peak(noise) - median_now.error(noise)
        self.back = self.back + 1 if is_back else 0
        if self.back >= MEDIAN_OF:
            for level in self.levels.values():
                level.falls, level.rows = False, 0

    def _count_ties(self, value: float) -> None:
        spread = self.highest - self.lowest if self.recent else 0.0
        if self.recent and abs(value - self.recent[-1]) <= ROUNDING * spread:
            self.same += 1
        else:
            self.pairs += self.same if self.recent else 0
            self.ties += max(0, self.same - 1)
            self.same = 1

    def _usual_share(self) -> float:
        """How often the present value came up before it lasted; 0 for the lowest."""
        before, rounding = self.recent[: -self.same], ROUNDING * (self.highest - self.lowest)
        if self.recent[-1] - self.lowest <= rounding:
            return 0.0
        return (sum(abs(value - self.recent[-1]) <= rounding for value in before) + 1) / (len(before) + 2)

    def _is_solved(self) -> bool:
        """Whether it is at its peak and has not got there by a leap, as a reward does that is always 1."""
        room = self.highest - self.lowest
        leap = max((after - before for before, after in pairwise(self.recent)), default=0.0)
        return room > 0 and self.recent[-1] >= self.highest - 0.1 * room and leap <= 0.4 * room

    def _least(self) -> float:
        rounding = PRECISION * max(abs(self.lowest), abs(self.highest))
        return max(rounding, MATERIAL * (self.bounds[1] - self.bounds[0]) if self.bounds else 0.0)

    def _noise(self, again: int) -> float:
        window = self._window_noise(again)
        return window if self.count <= WINDOW else max(window, self.usual_noise.value)

    def _window_noise(self, again: int) -> float:
        steps = [abs(after - before) for before, after in pairwise(self.recent)]
        if not steps:
            return 0.0
        return (sum(steps) + again * max(steps)) / (len(steps) + again) / MEAN_DIFFERENCE

    def state(self) -> dict[str, Any]:
        """Everything, as plain numbers, lists and dictionaries."""
        return asdict(self) | {"lowest": None, "highest": None} if not self.recent else asdict(self)

    @classmethod
    def restore(cls, state: dict[str, Any]) -> "RewardWatch":
        """The watch that gave this state."""
        plain = {name: value for name, value in state.items() if value is not None}
        plain["usual_noise"] = Average(**state["usual_noise"])
        plain["levels"] = {name: Level(**level) for name, level in state["levels"].items()}
        plain["averages"] = {name: Average(**average) for name, average in state["averages"].items()}
        return cls(**plain)

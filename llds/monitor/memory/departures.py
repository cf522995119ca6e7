"""What has moved: signals that left their usual level, since when, from what to what, and how the reward was then.

It says what came first and not why. A departure is more than four times the signal's noise and large enough to matter
(a factor of 1.5, or 15 points of a share); the usual level follows slow changes and stands still while it is away.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from llds.monitor import signals as s
from llds.monitor.memory.row import LOGARITHMIC
from llds.monitor.memory.track import Track

FOLLOWED = {
    s.ACTION_TOKENS: "response length",
    s.ACTION_CUT: "share of cut responses",
    s.ENTROPY: "entropy",
    s.GRAD_NORM: "gradient norm",
    s.CLIP_SHARE: "share of clipped tokens",
    s.GAP_MEAN: "gap between sampler and trainer",
    s.BEHAVIOR_KL: "KL of the sampler to the trainer",
    s.VALID_ACTIONS: "share of well-formed actions",
    s.ANSWERED: "share with an answer",
}
"""Signals and their names in words."""
NOISES = 4.0
FACTOR = math.log(1.5)
POINTS = 0.15
WARM = 5
LASTING = 3
"""Rows from which it is no spike."""
_OF_THE_POLICY = (s.ENTROPY, s.ACTION_TOKENS, s.ACTION_CUT)
FOLLOWING = 0.1
"""Weight of a new value in the usual level."""


@dataclass
class Departure:
    """Whether a signal is away from its usual level.

    Attributes:
        usual: Its usual level; None before there is one.
        away: Values in a row that are at least half as far from it as a departure is.
        since: Iteration of the first of them.
        position: Row of the first of them.
        holds: Whether it has departed.
        now: The mean of the last two values.
        reward: The smoothed reward when it began to; None without one.
    """

    usual: float | None = None
    away: int = 0
    since: int = -1
    position: int = -1
    holds: bool = False
    now: float = 0.0
    reward: float | None = None

    def update(self, position: int, iteration: int, name: str, track: Track, reward: float | None) -> None:
        """Take in the newest value of the signal's track."""
        value = track.last
        self.now = sum(track.recent[-2:]) / len(track.recent[-2:])
        if self.usual is None:
            self.usual = track.center if track.count >= WARM else None
            return
        enough = max(NOISES * track.noise / math.sqrt(2), _least(name))
        if abs(value - self.usual) < enough / 2:
            self.away = 0
        elif not self.away:
            self.away, self.since, self.position, self.reward = 1, iteration, position, reward
        else:
            self.away += 1
        self.holds = self.away >= 2 and (self.holds or abs(self.now - self.usual) >= enough)
        if not self.away:
            self.usual += FOLLOWING * (value - self.usual)

    def words(self, name: str) -> str:
        """What is seen."""
        before, after = self.usual or 0.0, self.now
        if name in LOGARITHMIC:
            before, after = math.exp(before), math.exp(after)
        then = "" if self.reward is None else f" (reward {self.reward:.3g})"
        return f"{FOLLOWED[name]} {before:.3g} until iteration {self.since}{then}, {after:.3g} at last"

    def state(self) -> dict[str, Any]:
        """Everything, as plain values."""
        return asdict(self)


def _least(name: str) -> float:
    return FACTOR if name in LOGARITHMIC else POINTS


def far(departures: Mapping[str, Departure]) -> int:
    """How many of entropy, length and the share of cut responses are far from their usual level, for a while."""
    there = [(name, departures[name]) for name in _OF_THE_POLICY if name in departures]
    lasting = [(name, one) for name, one in there if one.holds and one.away >= LASTING]
    return sum(abs(one.now - (one.usual or 0.0)) >= 2 * _least(name) for name, one in lasting)


def moved(departures: Mapping[str, Departure]) -> list[tuple[int, str]]:
    """What is away, in the order in which it left: row and words."""
    found = [(one.position, one.words(name)) for name, one in departures.items() if one.holds]
    return sorted(found)

"""What became of a run, with hindsight: the truth that a detector is measured against, never used while a run goes on.

Rewards are smoothed by a centered mean over `WINDOW` iterations. A run **collapsed** when they fall below `LOST` of
their peak so far; its fall is the iteration at which they crossed `FALL` of the peak for good before that. A run is
**healthy** when they never go below `HELD` of the peak. A run between the two is neither collapsed nor healthy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

WINDOW = 9
FALL = 0.8
LOST = 0.65
HALVED = 0.5
HELD = 0.75


@dataclass(frozen=True)
class Outcome:
    """A run's end.

    Attributes:
        kind: What became of it.
        fall: Iteration (position) at which a collapsed run's reward is 20% under its peak; None for other runs.
        lost: Position at which it is 35% under.
        deadline: Position at which it has halved, or the run's end: an alarm after it came too late.
        is_cliff: Whether it went from the peak's 80% to under 40% within three iterations: nothing to foresee.
    """

    kind: Literal["collapsed", "healthy", "between"]
    fall: int | None = None
    lost: int | None = None
    deadline: int | None = None
    is_cliff: bool = False


def outcome(rewards: Sequence[float]) -> Outcome:
    """Judge a run by its rewards, one per iteration."""
    smooth = _centered_mean(rewards)
    peaks = [max(smooth[: at + 1]) for at in range(len(smooth))]
    shares = [value / peak if peak > 0 else 1.0 for value, peak in zip(smooth, peaks, strict=True)]
    lost = next((at for at, share in enumerate(shares) if share < LOST), None)
    if lost is None:
        return Outcome("healthy" if min(shares, default=0.0) >= HELD else "between")
    fall = max((at for at in range(lost + 1) if shares[at] >= FALL), default=-1) + 1
    deadline = next((at for at, share in enumerate(shares) if share < HALVED), len(shares) - 1)
    return Outcome("collapsed", fall, lost, deadline, _has_cliff(rewards[: lost + 6], peaks[lost]))


def _has_cliff(rewards: Sequence[float], peak: float) -> bool:
    def mean(start: int) -> float:
        return sum(rewards[start : start + 3]) / 3

    return any(mean(at - 3) >= FALL * peak and mean(at) <= 0.4 * peak for at in range(3, len(rewards) - 2))


def _centered_mean(values: Sequence[float]) -> list[float]:
    half = WINDOW // 2
    windows = [values[max(0, at - half) : at + half + 1] for at in range(len(values))]
    return [sum(window) / len(window) for window in windows]

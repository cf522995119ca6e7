"""What is out of the ordinary in an iteration: one small check per symptom, on the tracks of the signals.

Three kinds. **Votes** say that something is wrong with the policy; together with a falling reward they are phase III.
**Signs** (`llds.monitor.symptoms.instability`) are slower and, together, an alarm of their own. **Faults** point to a
cause.
Checks compare a signal with its own past or with a natural unit (a likelihood ratio of 1.5, half of the actions), not
with one model's scale. Each gives a strength of 0-1; from `VOTE` on it counts.
"""

from collections.abc import Callable
from dataclasses import dataclass

from llds.monitor.memory.row import Tracks
from llds.monitor.memory.track import Track

VOTE = 0.5
"""Strength from which a symptom counts."""
Finding = tuple[str, float, str]
"""Signal, strength and words."""


@dataclass(frozen=True)
class Check:
    """One symptom to look for.

    Attributes:
        name: Of the symptom.
        find: Returns a finding, or None where its signals are missing.
        signals: Any of which it needs.
        delay: Iterations that the symptom has lasted when it is first seen.
    """

    name: str
    find: Callable[[Tracks], Finding | None]
    signals: tuple[str, ...]
    delay: int = 0


def ramp(value: float, low: float, high: float) -> float:
    """0 up to ``low``, 1 from ``high``, straight between."""
    return min(1.0, max(0.0, (value - low) / (high - low)))


def ready(tracks: Tracks, name: str, warmup: int = 3) -> Track | None:
    """The track of a signal that has this many values."""
    track = tracks.get(name)
    return track if track is not None and track.count >= warmup else None


def in_percent(value: float) -> str:
    """A share in words."""
    return f"{value:.0%}"


def latest(track: Track) -> float:
    """Mean of the last two values."""
    return sum(track.recent[-2:]) / len(track.recent[-2:])

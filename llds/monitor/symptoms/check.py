"""What is out of the ordinary in an iteration: one small check per symptom, on the tracks of the signals.

Three kinds. **Votes** say that something is wrong with the policy; together with a falling reward they are phase III.
**Signs** (`llds.monitor.symptoms.instability`) are slower and, together, an alarm of their own. **Faults** point to a cause.
Checks compare a signal with its own past or with a natural unit (a likelihood ratio of 1.5, half of the actions), not
with one model's scale. Each gives a strength of 0-1; from `VOTE` on it counts.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from llds.monitor import signals as s
from llds.monitor.memory.track import Track

VOTE = 0.5
"""Strength from which a symptom counts."""
LOGARITHMIC = (
    s.ENTROPY,
    s.RATIO_MAX,
    s.RATIO_P99,
    s.LLD_MAGNITUDE,
    s.GRAD_NORM,
    s.LEARNING_RATE,
    s.GAP_MEAN,
    s.BEHAVIOR_KL,
)
"""Signals that are tracked as logarithms: their changes are factors."""
FLOORS = {s.GAP_MEAN: 1e-12, s.BEHAVIOR_KL: 1e-12, s.LLD_MAGNITUDE: 1e-3}
"""What counts as the least of those of which 0 is a good value: sampler and trainer agree, nothing falls."""
DISPLACEMENT_CONTRAST = "derived/displacement_contrast"
LIKELIHOOD_CONTRAST = "derived/likelihood_contrast"

Tracks = Mapping[str, Track]
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


_CONTRASTS = {
    DISPLACEMENT_CONTRAST: (s.DISPLACEMENT_CORRECT, s.DISPLACEMENT_INCORRECT),
    LIKELIHOOD_CONTRAST: (s.LIKELIHOOD_CORRECT, s.LIKELIHOOD_INCORRECT),
}


def tracked_values(row: Mapping[str, float]) -> dict[str, float]:
    """The finite values of a row that are tracked: known signals, some as logarithms, and two contrasts.

    A contrast, right against wrong over the sum of their sizes, is in [-1, 1] whatever the unit.
    """
    names = [name for name in s.BY_NAME if name in row and name != s.BACK_TO]
    known = {name: float(row[name]) for name in names if math.isfinite(row[name])}
    values = {name: value for name, value in known.items() if name not in LOGARITHMIC}
    # Elsewhere 0 is nothing to compare with (no gradient where no group was informative)
    least = {name: max(known[name], FLOORS.get(name, 0.0)) for name in LOGARITHMIC if name in known}
    values |= {name: math.log(value) for name, value in least.items() if value > 0}
    for contrast, (right, wrong) in _CONTRASTS.items():
        if right in known and wrong in known and (size := abs(known[right]) + abs(known[wrong])) > 0:
            values[contrast] = (known[right] - known[wrong]) / size
    return values


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

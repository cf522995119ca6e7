"""What of a row is tracked, and how: factors as logarithms, and two contrasts."""

import math
from collections.abc import Mapping

from llds.monitor import signals as s
from llds.monitor.memory.track import Track

LOGARITHMIC = (
    s.ENTROPY,
    s.ACTION_TOKENS,
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
"""The tracks of the signals, by name."""
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

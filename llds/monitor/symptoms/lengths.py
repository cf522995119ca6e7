"""Responses that grow until they are cut."""

import math
from collections.abc import Mapping

from llds.monitor import signals as s
from llds.monitor.memory.departures import Departure
from llds.monitor.symptoms.check import Finding

NAME = "responses_explode"
LASTING = 3
"""Rows for which they must be long."""
CUT = 0.5
"""Share of cut responses from which most of what is sampled is no answer any more."""
RISE = 0.3
"""By how much that share must have risen: some runs begin with a limit that is too small."""
FACTOR = math.log(2)
"""Growth that counts where the log does not say how many are cut."""


def find(departures: Mapping[str, Departure]) -> Finding | None:
    """Whether responses explode: most are cut of late, which was not so before; or they are twice as long, at once."""
    cut, length = departures.get(s.ACTION_CUT), departures.get(s.ACTION_TOKENS)
    words = [one.words(name) for name, one in ((s.ACTION_TOKENS, length), (s.ACTION_CUT, cut)) if one and one.holds]
    if cut is not None:
        explodes = cut.holds and cut.away >= LASTING and cut.now >= CUT and cut.now - (cut.usual or 0.0) >= RISE
        return s.ACTION_CUT, float(explodes), "; ".join(words)
    if length is None:
        return None
    explodes = length.holds and length.away >= LASTING and length.now - (length.usual or 0.0) >= FACTOR
    return s.ACTION_TOKENS, float(explodes), "; ".join(words)

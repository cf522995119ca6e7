"""A timeout that adapts to how long a server usually takes.

A lost answer should cost about what an answer takes, not the long time that a busy server may be granted. So a first
try waits a few times as long as answers usually take, and longer after each try that was not answered in time. Tries
that ran out of time count as answers that took that long: when many do, the server has become slow, and the wait grows.
"""

import threading
from collections import deque

_RECENT = 16
_USUAL = 0.75
"""Quantile of the recent answers that is what they usually take: a lost answer now and then does not move it."""
_FACTOR = 4.0
_GROWTH = 3.0
_LEAST_S = 1.0


class AdaptiveTimeout:
    """Learns from answers how long to wait for the next. Safe to use from several threads.

    Args:
        limit_s: Longest wait, in seconds.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._recent_s: deque[float] = deque(maxlen=_RECENT)
        self._lock = threading.Lock()

    def record(self, seconds: float) -> None:
        """Take note of how long an answer took, or how long it was waited for in vain."""
        with self._lock:
            self._recent_s.append(seconds)

    def seconds(self, timed_out: int) -> float:
        """How long to wait, in seconds.

        Args:
            timed_out: Number of tries of this request that were not answered in time.
        """
        with self._lock:
            recent_s = sorted(self._recent_s)
        if not recent_s:
            return self.limit_s
        usual_s = recent_s[int(_USUAL * len(recent_s))]
        return min(self.limit_s, max(_LEAST_S, _FACTOR * usual_s) * _GROWTH**timed_out)

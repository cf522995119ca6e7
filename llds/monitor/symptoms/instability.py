"""Whether the policy is unstable before its reward shows it: four slow signs, each in a unit of its own.

A policy that is about to collapse has moved too far in every iteration for a while: its likelihood ratios are large,
the correct actions that lose likelihood lose much, and what it once answered right it would no longer say. Each sign
alone, and any two of them, also last in runs that go on well; in the recorded ones three do not. And where all together
are no more than one that is strong, a reward that seems to fall a little was most often a matter of luck.

The units are natural (a ratio of likelihoods, nats per token), but the ranges were set on small policies, and the
largest of more ratios is larger. With one update per iteration all ratios are 1, and this says nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llds.monitor import signals as s
from llds.monitor.memory.row import Tracks
from llds.monitor.symptoms.check import VOTE, Check, Finding, ramp, ready

SIGNS_NEEDED = 3
LASTING = 3
"""Rows for which a state must be seen."""
AT_REST = 1.0
"""Summed strength of the signs up to which the policy is calm."""
WARMUP = 6
_NEVER_MOVED = 1e-3
"""Logarithm of the largest ratio below which every step began at the old policy."""


@dataclass
class Instability:
    """How long the policy has been unstable, or calm; neither where a sign is not in the table.

    Attributes:
        unstable: Measured rows in a row in which enough signs were strong.
        calm: Measured rows in a row in which all together were no more than one strong one.
    """

    unstable: int = 0
    calm: int = 0

    @property
    def is_unstable(self) -> bool:
        """Whether that lasts."""
        return self.unstable >= LASTING

    @property
    def is_calm(self) -> bool:
        """Whether that lasts."""
        return self.calm >= LASTING

    def update(self, strengths: Sequence[float], *, is_new: bool) -> None:
        """Take in the strengths of `SIGNS`, as many as the table has of late; ``is_new``: all of this row."""
        is_measured = len(strengths) == len(SIGNS)
        if is_measured and not is_new:
            return
        is_unstable = is_measured and sum(strength >= VOTE for strength in strengths) >= SIGNS_NEEDED
        is_calm = is_measured and sum(strengths) <= AT_REST
        self.unstable = self.unstable + 1 if is_unstable else 0
        self.calm = self.calm + 1 if is_calm else 0


def _ratios_stay_high(tracks: Tracks) -> Finding | None:
    track = ready(tracks, s.RATIO_P99, WARMUP)
    if track is None:
        return None
    words = f"1% of the likelihood ratios have exceeded {math.exp(track.slow.value):.2f} for a while"
    return s.RATIO_P99, ramp(track.slow.value, math.log(1.3), math.log(1.6)), words


def _largest_ratios_stay_high(tracks: Tracks) -> Finding | None:
    track = ready(tracks, s.RATIO_MAX, WARMUP)
    if track is None or track.slow.value < _NEVER_MOVED:
        return None
    words = f"the largest likelihood ratio has been about {math.exp(track.slow.value):.1f} for a while"
    return s.RATIO_MAX, ramp(track.slow.value, math.log(5), math.log(9)), words


def _falls_are_deep(tracks: Tracks) -> Finding | None:
    track = ready(tracks, s.LLD_MAGNITUDE, WARMUP)
    if track is None:
        return None
    fall = math.exp(track.slow.value)
    words = f"correct actions that lose likelihood lose {fall:.2g} nats per token in an iteration"
    return s.LLD_MAGNITUDE, ramp(track.slow.value, math.log(0.0075), math.log(0.025)), words


def _old_answers_are_lost(tracks: Tracks) -> Finding | None:
    track = ready(tracks, s.PROBE_LIKELIHOOD, WARMUP)
    if track is None:
        return None
    lost = 0.0 if track.fast.highest is None else track.fast.highest - track.fast.value
    return s.PROBE_LIKELIHOOD, ramp(lost, 0.07, 0.21), f"early correct trajectories lost {lost:.2f} nats per token"


SIGNS = (
    Check("ratios_stay_high", _ratios_stay_high, (s.RATIO_P99,)),
    Check("largest_ratios_stay_high", _largest_ratios_stay_high, (s.RATIO_MAX,)),
    Check("falls_are_deep", _falls_are_deep, (s.LLD_MAGNITUDE,)),
    Check("old_answers_are_lost", _old_answers_are_lost, (s.PROBE_LIKELIHOOD,)),
)

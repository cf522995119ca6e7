"""Votes that something is wrong with the policy. With a falling reward they are phase III; alone they also pass."""

import math

from llds.monitor import signals as s
from llds.monitor.memory.row import Tracks
from llds.monitor.symptoms.check import Check, Finding, in_percent, ramp, ready


def _entropy_surges(tracks: Tracks) -> Finding | None:
    track = ready(tracks, s.ENTROPY)
    if track is None:
        return None
    over_start = track.fast.value - track.center
    over_lowest = track.fast.value - (track.fast.value if track.fast.lowest is None else track.fast.lowest)
    strength = max(ramp(over_start, 0.0, 0.2), ramp(over_lowest, 0.25, 0.75))
    return s.ENTROPY, strength, f"entropy is {math.exp(over_start):.2f} times its start"


def _ratio_is_high(tracks: Tracks) -> Finding | None:
    track = ready(tracks, s.RATIO_P99)
    if track is not None:
        ratio = math.exp(track.fast.value)
        return s.RATIO_P99, ramp(track.fast.value, 0.4, 0.8), f"1% of the likelihood ratios exceed {ratio:.2f}"
    track = ready(tracks, s.CLIP_SHARE)
    if track is None:
        return None
    return s.CLIP_SHARE, ramp(track.fast.value, 0.1, 0.4), f"{in_percent(track.fast.value)} of the tokens are clipped"


def _gradient_surges(tracks: Tracks) -> Finding | None:
    track = ready(tracks, s.GRAD_NORM)
    if track is None:
        return None
    over = track.fast.value - track.center
    return s.GRAD_NORM, ramp(over, 0.3, 1.0), f"the gradient norm is {math.exp(over):.1f} times its start"


def _first_actions_are_lost(tracks: Tracks) -> Finding | None:
    track = ready(tracks, s.FIRST_ACTION_MATCH)
    if track is None or not track.fast.highest:
        return None
    lost = 1 - track.fast.value / track.fast.highest
    words = f"wrong trajectories begin with a good search {in_percent(max(lost, 0))} less often than at best"
    return s.FIRST_ACTION_MATCH, ramp(lost, 0.05, 0.25), words


def _correct_actions_fall(tracks: Tracks) -> Finding | None:
    track = ready(tracks, s.LLD_RATE)
    if track is None:
        return None
    rate = track.fast.value
    words = f"{in_percent(rate)} of the correct actions lose likelihood in an iteration"
    return s.LLD_RATE, ramp(rate, 0.3, 0.8), words


VOTES = (
    Check("entropy_surges", _entropy_surges, (s.ENTROPY,)),
    Check("ratio_is_high", _ratio_is_high, (s.RATIO_P99, s.CLIP_SHARE)),
    Check("gradient_surges", _gradient_surges, (s.GRAD_NORM,)),
    Check("first_actions_are_lost", _first_actions_are_lost, (s.FIRST_ACTION_MATCH,)),
    Check("correct_actions_fall", _correct_actions_fall, (s.LLD_RATE,)),
)

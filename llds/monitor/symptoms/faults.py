"""Faults around the policy, by the marks they leave: each points to a cause."""

import math
from collections.abc import Iterable
from itertools import pairwise
from statistics import median

from llds.monitor import signals as s
from llds.monitor.memory.row import DISPLACEMENT_CONTRAST, LIKELIHOOD_CONTRAST, Tracks
from llds.monitor.memory.track import Track
from llds.monitor.symptoms.check import (
    VOTE,
    Check,
    Finding,
    in_percent,
    latest,
    ramp,
    ready,
)

_FORMAT = (
    (s.VALID_ACTIONS, "well-formed actions", (0.1, 0.4)),
    (s.ANSWERED, "trajectories with an answer", (0.4, 0.8)),
)
"""What shows the form, in words, and the leap that is none yet and that is one for sure: answers are lost sooner."""


def _is_behind_by_design(tracks: Tracks) -> bool:
    """Whether the sampler has had older weights from the start: iterations overlap, and the gap is the updates'."""
    lag = ready(tracks, s.WEIGHT_LAG)
    return lag is not None and lag.center >= 0.5


def _gap_from_the_start(tracks: Tracks) -> Finding | None:
    if _is_behind_by_design(tracks):
        return None
    for name, low, high, unit in ((s.GAP_MEAN, 0.01, 0.03, "nats"), (s.BEHAVIOR_KL, 0.001, 0.01, "nats of KL")):
        track = ready(tracks, name)
        if track is not None:
            # A run that falls apart within the warm-up has no start to speak of but its first rows
            first = math.exp(sorted(track.baseline)[1])
            words = f"sampler and trainer disagree from the start, by {first:.3g} {unit} per token"
            return name, ramp(first, low, high), words
    return None


def _gap_grows(tracks: Tracks) -> Finding | None:
    lag = ready(tracks, s.WEIGHT_LAG)
    if lag is not None and lag.fast.value - lag.center >= 1:
        return s.WEIGHT_LAG, 1.0, f"the sampler's weights are {lag.last:.0f} updates behind"
    if _is_behind_by_design(tracks):
        return None
    for name, floor in ((s.GAP_MEAN, 0.003), (s.BEHAVIOR_KL, 0.001)):
        track = ready(tracks, name)
        if track is not None:
            over = latest(track) - max(track.center, math.log(floor / 4))
            words = (
                f"sampler and trainer agreed at the start (within {math.exp(track.center):.2g}) and drift apart, "
                f"to {math.exp(track.last):.2g}"
            )
            return name, ramp(over, math.log(2), math.log(8)), words
    return None


def _tools_fail(tracks: Tracks) -> Finding | None:
    for name in (s.TOOL_FAILURES, s.FAILED):
        track = ready(tracks, name)
        if track is not None and (over := max(track.fast.value, latest(track)) - track.center) > 0.02:
            what = "tool calls" if name == s.TOOL_FAILURES else "trajectories"
            return name, ramp(over, 0.05, 0.2), f"{in_percent(track.last)} of the {what} fail"
    return None


def _searches_vanish(tracks: Tracks) -> Finding | None:
    asked = _left(tracks, s.QUERIES)
    asked = 1.0 if asked is None else asked
    if asked < 0.05:
        return None
    found = None
    for name, what in ((s.TOOL_CALLS, "tool calls with a result"), (s.HIT_RATE, "searches that find the answer")):
        left = _left(tracks, name)
        if left is None:
            continue
        # A policy that asks less gets less
        lost = 1 - left / min(1.0, asked)
        strength = ramp(lost, 0.3, 0.7)
        if found is None or strength > found[1]:
            found = name, strength, f"{what} fell by {in_percent(max(lost, 0))} within a few iterations"
    return found


def _left(tracks: Tracks, name: str) -> float | None:
    """What is left of a signal's usual value of late."""
    track = ready(tracks, name, 4)
    if track is None or (usual := median(track.recent[-10:-2])) <= 0:
        return None
    return latest(track) / usual


def _searches_find_nothing(tracks: Tracks) -> Finding | None:
    track = ready(tracks, s.EMPTY_SEARCHES)
    if track is None:
        return None
    over = latest(track) - track.center
    return s.EMPTY_SEARCHES, ramp(over, 0.1, 0.4), f"{in_percent(track.last)} of the queries find nothing"


def _format_erodes(tracks: Tracks) -> Finding | None:
    return _strongest(_lost_form(tracks, name, what) for name, what, _ in _FORMAT)


def _format_breaks(tracks: Tracks) -> Finding | None:
    # A policy that collapses loses its form too, over some iterations
    found = []
    for name, what, leap in _FORMAT:
        lost = _lost_form(tracks, name, what)
        if lost is not None:
            found.append((name, min(lost[1], ramp(_largest_leap(tracks[name]), *leap)), f"{lost[2]}, at once"))
    return _strongest(found)


def _lost_form(tracks: Tracks, name: str, what: str) -> Finding | None:
    track = ready(tracks, name)
    if track is None or track.fast.highest is None:
        return None
    lost = track.fast.highest - track.fast.value
    words = f"{what} fell from {in_percent(track.fast.highest)} to {in_percent(track.last)}"
    return name, ramp(lost, 0.05, 0.25), words


def _largest_leap(track: Track) -> float:
    """The largest fall of late between means of two neighbouring values."""
    pairs = [(before + after) / 2 for before, after in pairwise(track.recent)]
    return max((before - after for before, after in zip(pairs, pairs[2:], strict=False)), default=0.0)


def _strongest(findings: Iterable[Finding | None]) -> Finding | None:
    return max((one for one in findings if one is not None), key=lambda one: one[1], default=None)


def _reward_is_blind(tracks: Tracks) -> Finding | None:
    track = ready(tracks, DISPLACEMENT_CONTRAST, 6)
    if track is not None:
        # From the start only: in a spiral correct responses lose likelihood with the incorrect ones too, but later
        best = track.slow.value if track.slow.highest is None else max(track.slow.highest, track.slow.value)
        moved = ramp(-max(abs(track.slow.value), best), -0.7, -0.4)
        if moved >= VOTE:
            words = "from the start, updates favor correct responses no more than incorrect ones"
            return s.DISPLACEMENT_CORRECT, moved, words
    track = ready(tracks, LIKELIHOOD_CONTRAST, 8)
    if track is None:
        return None
    error = track.noise * math.sqrt(track.slow.weight / (2 - track.slow.weight))
    alike = ramp(-track.slow.value - error, -0.04, 0.0)
    return s.LIKELIHOOD_CORRECT, alike, "correct responses are no likelier under the policy than incorrect ones"


def _learning_rate_jumps(tracks: Tracks) -> Finding | None:
    track = ready(tracks, s.LEARNING_RATE, 8)  # a linear warm-up doubles and trebles it before
    if track is None:
        return None
    before = max(track.recent[-8:-3], default=track.last)
    jump = max(track.recent[-3:]) - before
    return s.LEARNING_RATE, ramp(jump, math.log(2), math.log(4)), f"the learning rate rose {math.exp(jump):.1f}-fold"


def _updates_blow_up(tracks: Tracks) -> Finding | None:
    nonfinite = tracks.get(s.NONFINITE)
    if nonfinite is not None and nonfinite.fast.value > 0.02:
        return s.NONFINITE, 1.0, f"{in_percent(nonfinite.last)} of the steps were not finite"
    found = None
    for name, what in ((s.GRAD_NORM, "gradient norm"), (s.RATIO_P99, "likelihood ratio (99th percentile)")):
        track = ready(tracks, name, 4)
        if track is None:
            continue
        jump = median(track.recent[-3:]) - median(track.recent[:-3])
        strength = ramp(jump, math.log(2), math.log(8))
        if found is None or strength > found[1]:
            found = name, strength, f"the {what} jumped {math.exp(jump):.1f}-fold"
    return found


def _prompts_repeat(tracks: Tracks) -> Finding | None:
    track = ready(tracks, s.REPEATED_PROMPTS)
    if track is None:
        return None
    share = track.fast.value
    return s.REPEATED_PROMPTS, ramp(share, 0.1, 0.5), f"{in_percent(track.last)} of the prompts were trained on before"


FAULTS = (
    Check("gap_from_the_start", _gap_from_the_start, (s.GAP_MEAN, s.BEHAVIOR_KL)),
    Check("gap_grows", _gap_grows, (s.GAP_MEAN, s.BEHAVIOR_KL, s.WEIGHT_LAG)),
    Check("tools_fail", _tools_fail, (s.FAILED, s.TOOL_FAILURES)),
    Check("searches_find_nothing", _searches_find_nothing, (s.EMPTY_SEARCHES,)),
    Check("searches_vanish", _searches_vanish, (s.TOOL_CALLS, s.HIT_RATE, s.QUERIES)),
    Check("format_breaks", _format_breaks, (s.VALID_ACTIONS, s.ANSWERED)),
    Check("format_erodes", _format_erodes, (s.VALID_ACTIONS, s.ANSWERED)),
    # Its averages are over more rows than that, so that it began before it is seen
    Check("reward_is_blind", _reward_is_blind, (s.DISPLACEMENT_CORRECT, s.LIKELIHOOD_CORRECT), delay=7),
    Check("learning_rate_jumps", _learning_rate_jumps, (s.LEARNING_RATE,)),
    Check("updates_blow_up", _updates_blow_up, (s.GRAD_NORM, s.RATIO_P99, s.NONFINITE)),
    Check("prompts_repeat", _prompts_repeat, (s.REPEATED_PROMPTS,)),
)

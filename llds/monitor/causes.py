"""Why a run is in trouble: rules over symptoms and the order in which they began.

Faults of the machinery leave marks that a spiral of likelihood does not: failed calls, a gap between sampler and
trainer, a reward without spread. Where a mark could also follow from a collapse (broken format, vanished searches, a
reward that stays at 0, a gap that grows with the entropy), it is the cause only if it began before the policy became
unstable. A spiral is named only where the log has the likelihood of correct responses and it decays.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from llds.monitor.diagnosis import Cause, Symptom
from llds.monitor.memory.departures import Departure
from llds.monitor.memory.drift import LIKELIHOODS, Drift
from llds.monitor.memory.row import Tracks
from llds.monitor.signals import ACTION_CUT, ACTION_TOKENS, ENTROPY, NONFINITE, WEIGHT_LAG

HEAD_START = 1
"""Rows by which another symptom may be seen earlier than the fault that caused it."""

_AHEAD = {"gap_grows": 8, "updates_blow_up": 8, "responses_explode": 3}
"""Rows by which what also follows from a collapse must come before all else to be its cause.

An alarm about the reward is some rows late, and a gap that rises with the entropy is a consequence: it must have been
there for a while, and alone. Lengths need only come before the reward falls."""
_OF_THE_POLICY = (ENTROPY, ACTION_TOKENS, ACTION_CUT)

NAMES: dict[Cause, str] = {
    "not_finite": "loss, gradient or reward are no numbers any more",
    "length_explosion": "responses grow until they are cut",
    "lld_spiral": "LLD spiral: correct responses lose likelihood to incorrect ones that resemble them",
    "sampler_mismatch": "sampler and trainer do not compute the same probabilities",
    "stale_weights": "the sampler works with old weights",
    "retriever_outage": "the retriever fails, or finds nothing",
    "broken_reward": "the reward does not tell right from wrong",
    "format_break": "the policy's actions cannot be read any more",
    "optimizer_blow_up": "updates are too large: learning rate or optimizer",
    "data_repeating": "the same prompts come back",
    "unknown": "unknown",
}
"""Causes in words."""
Symptoms = Mapping[str, Symptom]
"""Symptoms that count, by name."""


@dataclass(frozen=True)
class Attribution:
    """A cause, and what points to it."""

    cause: Cause
    evidence: tuple[str, ...]


def attribute(
    symptoms: Symptoms,
    drift: Drift,
    tracks: Tracks,
    unstable_from: int | None,
    fallen_from: int | None,
    departures: Mapping[str, Departure],
    position: int,
    judged_from: int,
) -> Attribution:
    """Name the cause of a run's trouble; unknown without evidence.

    Args:
        symptoms: That count now or did since the trouble began.
        drift: Of the likelihood.
        tracks: Of the signals.
        unstable_from: Position of the first vote against the policy, or of the fall of its reward; None without one.
        fallen_from: Position at which the reward fell or the policy became unstable; None while neither is so.
        departures: Of the signals from their usual levels.
        position: Of the row.
        judged_from: Position of the first row after the warm-up.
    """

    def is_first(name: str) -> bool:
        """Whether a symptom is no consequence of instability."""
        if unstable_from is None:
            return True
        # Nobody has seen in which order those began that are there when the warm-up ends; `_follows` looks at some
        is_seen = unstable_from > judged_from or name in _AHEAD
        return _start(symptoms[name], departures) <= (unstable_from if is_seen else 0) + HEAD_START

    for cause, names, only_if_first in _RULES:
        marks = [symptoms[name] for name in names if name in symptoms and (not only_if_first or is_first(name))]
        if marks and not _follows(marks[0], fallen_from, departures, position):
            return Attribution(cause, tuple(mark.words for mark in marks))
    spiral = _evidence_of_a_spiral(symptoms, drift, tracks)
    erodes = symptoms.get("format_erodes")
    # While likelihood holds, what else is unusual after the form began to go follows from that
    if erodes and not drift.is_decay and not any(_begins_before(symptoms.get(name), erodes) for name in _SPIRAL):
        return Attribution("format_break", (erodes.words,))
    return Attribution("lld_spiral", tuple(spiral)) if spiral else Attribution("unknown", ())


def _follows(mark: Symptom, fallen_from: int | None, departures: Mapping[str, Departure], position: int) -> bool:
    """Whether a symptom that a moving policy brings about did not come so long before it that it must be the cause."""
    ahead = _AHEAD.get(mark.name)
    if ahead is None or mark.signal in (WEIGHT_LAG, NONFINITE):
        return False
    moving = () if mark.name == "responses_explode" else _OF_THE_POLICY
    others = [one.position for name, one in departures.items() if one.holds and name in moving]
    others += [] if fallen_from is None else [fallen_from]
    return _start(mark, departures) + ahead > min([*others, position + 1])


def _start(mark: Symptom, departures: Mapping[str, Departure]) -> int:
    """Position at which a symptom began: averages see it later than the signal itself shows it."""
    own = departures.get(mark.signal)
    return min(mark.position, own.position) if own is not None and own.holds else mark.position


def _begins_before(one: Symptom | None, other: Symptom) -> bool:
    return one is not None and one.position < other.position


def _evidence_of_a_spiral(symptoms: Symptoms, drift: Drift, tracks: Tracks) -> list[str]:
    """One sentence for each signal that shows it; none where nothing about likelihood does."""
    decays = drift.is_decay and drift.signal in LIKELIHOODS
    if not decays and not any(name in symptoms for name in _OF_LIKELIHOOD):
        return []
    words = {drift.signal: drift.words(tracks)} if decays else {}
    for name in _SPIRAL:
        if name in symptoms:
            words.setdefault(symptoms[name].signal, symptoms[name].words)
    return list(words.values())


_RULES: tuple[tuple[Cause, tuple[str, ...], bool], ...] = (
    ("retriever_outage", ("tools_fail",), False),
    ("stale_weights", ("gap_grows",), False),
    ("sampler_mismatch", ("gap_from_the_start",), False),
    ("optimizer_blow_up", ("learning_rate_jumps",), True),
    ("broken_reward", ("reward_is_blind",), True),
    ("data_repeating", ("prompts_repeat",), False),
    ("retriever_outage", ("searches_find_nothing", "searches_vanish"), True),
    ("format_break", ("format_breaks",), True),
    ("broken_reward", ("reward_is_constant",), True),
    ("length_explosion", ("responses_explode",), True),
    ("optimizer_blow_up", ("updates_blow_up",), True),
)
"""Cause, the symptoms that show it, and whether they must not follow the instability. The first that fits counts."""
_OF_LIKELIHOOD = ("correct_actions_fall", "falls_are_deep", "old_answers_are_lost")
"""Symptoms that only the likelihood of correct responses can show: without one of them no spiral is named."""
_SPIRAL = (
    "correct_actions_fall",
    "ratio_is_high",
    "entropy_surges",
    "first_actions_are_lost",
    "gradient_surges",
    "ratios_stay_high",
    "largest_ratios_stay_high",
    "falls_are_deep",
    "old_answers_are_lost",
)

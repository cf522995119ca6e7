"""Why a run is in trouble: rules over symptoms and the order in which they began.

Faults of the machinery leave marks that a spiral of likelihood does not: failed calls, a gap between sampler and
trainer, a reward without spread. Where a mark could also follow from a collapse (broken format, vanished searches, a
reward that stays at 0), it is the cause only if it began before the policy became unstable.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from llds.monitor import signals as s
from llds.monitor.diagnosis import Cause, Symptom
from llds.monitor.memory.drift import LIKELIHOODS, Drift
from llds.monitor.symptoms.check import Tracks

HEAD_START = 1
"""Rows by which another symptom may be seen earlier than the fault that caused it."""

NAMES: dict[Cause, str] = {
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
ADVICE: dict[Cause, str] = {
    "lld_spiral": (
        "Lower the learning rate (the strongest cure we measured), add LLDS or raise its lambda "
        "(`model.llds_penalty` in llds), and go on from the last checkpoint before the decay."
    ),
    "sampler_mismatch": (
        "Sample and train with the same precision, temperature, top-p and chat template; compare both on one prompt; "
        "correct with truncated importance sampling if the gap must stay."
    ),
    "stale_weights": (
        "Check the weight synchronisation: the sampler answers with old weights. Log the version it uses, reset its "
        "prefix cache after every update."
    ),
    "retriever_outage": (
        "Look at the retriever: is it up, is its index the one of the corpus, do its logs show errors? Rewards of this "
        "stretch say nothing about the policy; go on from the checkpoint before it."
    ),
    "broken_reward": (
        "Score a few logged trajectories by hand: does the reward tell right from wrong? Check gold answers, answer "
        "extraction, and that each reward reaches its own trajectory."
    ),
    "format_break": (
        "Read logged trajectories: has a template, tag or stop string changed, or are actions cut at the token limit?"
    ),
    "optimizer_blow_up": (
        "Go back to the last checkpoint before the jump; lower the learning rate or lengthen its warm-up, keep "
        "gradient clipping on, and take fewer updates per rollout batch."
    ),
    "data_repeating": "Check the data loader's position after a resume and its shuffling: prompts come back too early.",
    "unknown": "Read trajectories of the iterations around the onset, and compare with the last healthy checkpoint.",
}

Symptoms = Mapping[str, Symptom]
"""Symptoms that count, by name."""


@dataclass(frozen=True)
class Attribution:
    """A cause, what points to it, and what to do."""

    cause: Cause
    evidence: tuple[str, ...]

    @property
    def advice(self) -> str:
        """What to do."""
        return ADVICE[self.cause]


def attribute(symptoms: Symptoms, drift: Drift, tracks: Tracks, unstable_from: int | None) -> Attribution:
    """Name the cause of a run's trouble.

    Args:
        symptoms: That count now or did since the trouble began.
        drift: Of the likelihood.
        tracks: Of the signals.
        unstable_from: Position at which the policy became unstable; None while it is not.
    """

    def first(name: str) -> bool:
        """Whether a symptom is there and not a consequence of instability."""
        found = symptoms.get(name)
        return found is not None and (unstable_from is None or found.position <= unstable_from + HEAD_START)

    for cause, names, only_if_first in _RULES:
        marks = [symptoms[name] for name in names if name in symptoms and (not only_if_first or first(name))]
        if marks:
            return Attribution(cause, tuple(mark.words for mark in marks))
    spiral = _evidence_of_a_spiral(symptoms, drift, tracks)
    if spiral and not any(name in tracks for name in (s.LLD_RATE, *LIKELIHOODS)):
        spiral.append("the log has no likelihood of correct responses: a spiral fits, but nothing here proves it")
    erodes = symptoms.get("format_erodes")
    # While likelihood holds, what else is unusual after the form began to go follows from that
    if erodes and not drift.is_decay and not any(_begins_before(symptoms.get(name), erodes) for name in _SPIRAL):
        return Attribution("format_break", (erodes.words,))
    return Attribution("lld_spiral" if spiral else "unknown", tuple(spiral))


def _begins_before(one: Symptom | None, other: Symptom) -> bool:
    return one is not None and one.position < other.position


def _evidence_of_a_spiral(symptoms: Symptoms, drift: Drift, tracks: Tracks) -> list[str]:
    """One sentence for each signal that shows it."""
    words = {drift.signal: drift.words(tracks)} if drift.is_decay else {}
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
    ("optimizer_blow_up", ("updates_blow_up",), True),
)
"""Cause, the symptoms that show it, and whether they must not follow the instability. The first that fits counts."""
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

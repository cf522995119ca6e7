"""A run's diagnoses in short: its phases, its alarms, and how it stands at the end."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from llds.monitor.diagnosis import Diagnosis, Phase


@dataclass(frozen=True)
class Stretch:
    """Iterations with the same phase, first and last included."""

    phase: Phase
    start: int
    end: int


@dataclass(frozen=True)
class Summary:
    """What a run's table shows.

    Attributes:
        now: The diagnosis to act on: of the end of the run, with the cause that was named most often in its alarm.
        phases: The run's course, in hindsight.
        alarms: First and last iteration of each alarm.
    """

    now: Diagnosis
    phases: tuple[Stretch, ...]
    alarms: tuple[tuple[int, int], ...]


def summarize(diagnoses: Sequence[Diagnosis]) -> Summary:
    """Sum up the diagnoses of a run, at least one."""
    diagnoses = in_hindsight(diagnoses)
    phases = [Stretch(phase, *_ends(list(same))) for phase, same in groupby(diagnoses, lambda one: one.phase)]
    alarms = [_ends(list(same)) for level, same in groupby(diagnoses, lambda one: one.level) if level == "alarm"]
    return Summary(_now(diagnoses), tuple(phases), tuple(alarms))


def in_hindsight(diagnoses: Sequence[Diagnosis]) -> list[Diagnosis]:
    """The diagnoses, healthy where neither a warning nor an alarm follows: phases I and II lead to a collapse.

    While a run goes on, a likelihood that stagnates or decays may be the first of it; most often it is not.
    """
    last = max((at for at, one in enumerate(diagnoses) if one.level in ("warning", "alarm")), default=-1)
    return [one if at <= last else replace(one, phase="healthy") for at, one in enumerate(diagnoses)]


def _now(diagnoses: Sequence[Diagnosis]) -> Diagnosis:
    """The last diagnosis; its cause and evidence are those of most of its alarm or warning."""
    last = diagnoses[-1]
    if last.since is None:
        return last
    same = [one for one in diagnoses if one.iteration >= last.since and one.level == last.level]
    cause = Counter(one.cause for one in same).most_common(1)[0][0]
    named = [one for one in same if one.cause == cause][-1]
    return Diagnosis(
        **{**vars(last), "cause": cause, "evidence": named.evidence, "advice": named.advice}  # the rest is of the end
    )


def _ends(stretch: Sequence[Diagnosis]) -> tuple[int, int]:
    return stretch[0].iteration, stretch[-1].iteration

"""What happened in a run, in order: notes, warnings and alarms as they began, and what the ladder did."""

from dataclasses import dataclass

from llds.monitor import Diagnosis
from llds.report.run import Run

MOST = 40
"""Events on the page; of more, the first and the last are shown."""


@dataclass(frozen=True)
class Event:
    """One event.

    Attributes:
        iteration: When.
        kind: ``note``, ``warning``, ``alarm``, what the ladder did, or, in the place of what is not shown, nothing.
        words: What happened.
    """

    iteration: int | None
    kind: str
    words: str


def events(run: Run) -> list[Event]:
    """The events of a run."""
    found = _beginnings(run) + [
        Event(one.iteration, one.action, "; ".join(one.done) or one.action) for one in run.incidents if one.has_acted
    ]
    found.sort(key=lambda event: event.iteration or 0)
    if len(found) <= MOST:
        return found
    half = MOST // 2
    return [*found[:half], Event(None, "", f"{len(found) - MOST} more"), *found[-half:]]


def _beginnings(run: Run) -> list[Event]:
    levels = ["none", *(diagnosis.level for diagnosis in run.diagnoses)]
    return [
        Event(found.iteration, found.level, _words(found))
        for before, found in zip(levels, run.diagnoses, strict=False)
        if found.level not in ("none", before)
    ]


def _words(found: Diagnosis) -> str:
    seen = "; ".join(found.evidence or found.moved)
    return f"{found.cause.replace('_', ' ')}: {seen}" if found.cause else seen

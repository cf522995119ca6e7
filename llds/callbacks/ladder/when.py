"""When a rung acts: which trouble it answers to, how long it waits, how often it may act."""

from dataclasses import dataclass
from typing import Any, Literal

from llds.errors import ConfigurationError
from llds.monitor import LEVELS, Cause, Diagnosis, Level, Phase


@dataclass(frozen=True)
class When:
    """When a rung acts."""

    level: Literal["note", "warning", "alarm"] = "alarm"
    """Lowest level it answers to; an alarm is also more than a warning, which is more than a note."""
    phases: list[Phase] | None = None
    """Only in these phases: healthy, stagnation, decay, acceleration, collapsed; null is any."""
    causes: list[Cause] | None = None
    """Only for these causes (`llds.monitor.causes`), such as retriever_outage; null is any."""
    after: int = 0
    """Iterations that the trouble must have lasted before."""
    cooldown: int | None = None
    """Iterations from one action to the next; null: once, until the trouble is over or its level rises."""
    max_count: int | None = None
    """Most actions in a run; null is no limit."""

    def __post_init__(self) -> None:
        for name, least in (("after", 0), ("cooldown", 1), ("max_count", 1)):
            value = vars(self)[name]
            if value is not None and value < least:
                raise ConfigurationError(
                    f"Expected `{name}` of a rung's `when` in `collapse.ladder` to be >= {least}, got {value}. "
                    "Raise it."
                )
        if self.level not in LEVELS[1:]:
            raise ConfigurationError(
                "Expected `level` of a rung's `when` in `collapse.ladder` to be note, warning or alarm, got "
                f"{self.level}."
            )

    def fits(self, diagnosis: Diagnosis) -> bool:
        """Whether this is the trouble that is answered to."""
        return (
            LEVELS.index(diagnosis.level) >= LEVELS.index(self.level)
            and (self.phases is None or diagnosis.phase in self.phases)
            and (self.causes is None or diagnosis.cause in self.causes)
        )


@dataclass
class Record:
    """What a rung has seen and done; plain values, for checkpoints.

    Attributes:
        since: Iteration at which the present trouble began; None without.
        last: Iteration of the last action.
        level: Lowest since the last action.
        count: Actions of the run.
    """

    since: int | None = None
    last: int | None = None
    level: Level = "none"
    count: int = 0

    def is_due(self, when: When, diagnosis: Diagnosis) -> bool:
        """Take in an iteration, and say whether the rung acts at it."""
        if not when.fits(diagnosis):
            self.since = None
            return False
        now = diagnosis.iteration
        self.since = now if self.since is None else self.since
        rises = LEVELS.index(diagnosis.level) > LEVELS.index(self.level)
        self.level = min(self.level, diagnosis.level, key=LEVELS.index)
        if now - self.since < when.after or (when.max_count is not None and self.count >= when.max_count):
            return False
        if self.last is None:
            return True
        if when.cooldown is not None:
            return now - self.last >= when.cooldown
        return self.last < self.since or rises

    def note(self, diagnosis: Diagnosis) -> None:
        """Count an action."""
        self.last, self.level = diagnosis.iteration, diagnosis.level
        self.count += 1

    @classmethod
    def restore(cls, state: dict[str, Any]) -> "Record":
        """The record of a checkpoint."""
        return cls(**state)

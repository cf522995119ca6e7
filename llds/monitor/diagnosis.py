"""What the detector says about a run at one iteration."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Phase = Literal["healthy", "stagnation", "decay", "acceleration", "collapsed"]
Level = Literal["none", "warning", "alarm"]
Cause = Literal[
    "lld_spiral",
    "sampler_mismatch",
    "stale_weights",
    "retriever_outage",
    "broken_reward",
    "format_break",
    "optimizer_blow_up",
    "data_repeating",
    "unknown",
]

PHASES: dict[Phase, str] = {
    "healthy": "healthy",
    "stagnation": "I: likelihood stagnates",
    "decay": "II: likelihood decays steadily",
    "acceleration": "III: collapse accelerates",
    "collapsed": "collapsed",
}


@dataclass(frozen=True)
class Symptom:
    """Something out of the ordinary that lasts.

    Attributes:
        name: Of the symptom.
        signal: Metric key of the signal that shows it.
        since: Iteration at which it began.
        position: Rows of the table before it.
        strength: 0-1; from 0.5 on it counts as a vote.
        words: What is seen, with figures.
    """

    name: str
    signal: str
    since: int
    position: int
    strength: float
    words: str


@dataclass(frozen=True)
class Diagnosis:
    """The state of a run.

    Attributes:
        iteration: That was judged.
        phase: Of arXiv 2512.04220 v2, section 4, and `healthy` and `collapsed` around them.
        level: ``warning``: worth a look, also happens in runs that go on well. ``alarm``: reward is being lost, or is
            about to be.
        reward_lost: Share of the smoothed reward's peak that is lost now.
        confidence: Share of the signals that can vote and are in the table which do so, 0-1.
        symptoms: What lasts now, strongest first.
        since: Iteration at which the present level began; None without one.
        iterations_to_collapse: Until half of the peak reward is lost, if the present trend goes on; None without one.
        cause: Why; None without a level.
        evidence: What points to the cause, in words.
        advice: What to do about it.
    """

    iteration: int
    phase: Phase = "healthy"
    level: Level = "none"
    reward_lost: float = 0.0
    confidence: float = 0.0
    symptoms: tuple[Symptom, ...] = ()
    since: int | None = None
    iterations_to_collapse: float | None = None
    cause: Cause | None = None
    evidence: tuple[str, ...] = ()
    advice: str = ""

    @property
    def message(self) -> str:
        """One line for a log."""
        if self.level == "none":
            return f"healthy at iteration {self.iteration}"
        seen = [f"reward is {self.reward_lost:.0%} under its peak", *self.evidence][self.level == "warning" :]
        return (
            f"{self.level} since iteration {self.since}: phase {PHASES[self.phase]}; {'; '.join(seen)}. {self.advice}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

"""What the detector says about a run at one iteration."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Phase = Literal["healthy", "stagnation", "decay", "acceleration", "collapsed"]
Level = Literal["none", "note", "warning", "alarm"]
Cause = Literal[
    "not_finite",
    "lld_spiral",
    "length_explosion",
    "sampler_mismatch",
    "stale_weights",
    "retriever_outage",
    "broken_reward",
    "format_break",
    "optimizer_blow_up",
    "data_repeating",
    "unknown",
]

LEVELS: tuple[Level, ...] = ("none", "note", "warning", "alarm")
"""From the lowest to the highest. A note is logged and shown and says nothing aloud; at a warning a person should look
this hour; at an alarm acting pays."""
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
class RewardFall:
    """How the smoothed reward stands; the same for ``a * reward + b`` but for the first two, which are rewards.

    Attributes:
        peak: The highest that it was.
        now: Its value.
        errors: The fall in standard errors, what luck explains of the peak taken off.
    """

    peak: float
    now: float
    errors: float

    @property
    def words(self) -> str:
        """In words."""
        if self.errors < 1:
            return f"about its peak ({self.now:.3g}, smoothed)"
        return f"from {self.peak:.3g} down to {self.now:.3g}, smoothed ({self.errors:.1f} standard errors)"


@dataclass(frozen=True)
class Diagnosis:
    """The state of a run.

    Attributes:
        iteration: That was judged.
        phase: Of arXiv 2512.04220 v2, section 4, and `healthy` and `collapsed` around them.
        level: See `LEVELS`.
        reward: How the reward stands; None without one.
        confidence: Votes for a collapse, as a share of those that the columns of the table allow, 0-1.
        symptoms: What lasts now, strongest first.
        since: Iteration at which the present level began; None without one.
        cause: Why; None without a level.
        evidence: What points to the cause, in words.
        moved: What has left its usual level, in the order in which it did, in words.
        advice: What to do about it.
    """

    iteration: int
    phase: Phase = "healthy"
    level: Level = "none"
    reward: RewardFall | None = None
    confidence: float = 0.0
    symptoms: tuple[Symptom, ...] = ()
    since: int | None = None
    cause: Cause | None = None
    evidence: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()
    advice: str = ""

    @property
    def title(self) -> str:
        """A few words for an alert."""
        return f"llds: {self.level}, cause {(self.cause or 'unknown').replace('_', ' ')}"

    @property
    def message(self) -> str:
        """One line for a log."""
        if self.level == "none":
            return f"nothing unusual at iteration {self.iteration}"
        seen = list(self.evidence or self.moved[:1])
        if self.reward is not None and self.level == "alarm":
            seen = [f"reward {self.reward.words}", *seen]
        what = "; ".join(seen) or "several signals are unusual"
        return f"{self.level} since iteration {self.since}: phase {PHASES[self.phase]}; {what}. {self.advice}".strip()

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

"""The detector: one update per iteration, in constant time and memory; the same online and on a recorded table.

Rule of the alarm: the policy is unstable (`llds.monitor.symptoms.instability`), or the smoothed reward has lost `FALL` of its
peak: less for each vote that something is wrong (votes alone also occur in runs that survive), hardly less while the
policy is calm. What luck explains of a peak is taken off first, so that long and noisy runs need no other settings.
Decay of likelihood alone, or a spike alone, is a warning.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from llds.monitor import signals as s
from llds.monitor.causes import attribute
from llds.monitor.diagnosis import Diagnosis, Level, Phase, Symptom
from llds.monitor.memory.drift import LIKELIHOODS, Drift
from llds.monitor.symptoms.faults import FAULTS
from llds.monitor.symptoms.instability import LASTING, SIGNS, Instability
from llds.monitor.symptoms.check import VOTE, Check, tracked_values
from llds.monitor.memory.track import Track
from llds.monitor.symptoms.votes import VOTES

FALL = 0.25
"""Share of the peak reward whose loss is an alarm without any vote."""
FALL_PER_VOTE = 0.07
"""By how much each vote lowers that share."""
MAX_VOTES = 2.0
FALL_WHEN_CALM = 0.22
"""The least that votes lower it to while the policy is calm: most of them are luck then."""
COLLAPSED = 0.5
"""Share of the peak reward below which a run has collapsed."""
STAGNATION = 10
"""Iterations without a new best likelihood until it stagnates."""
RECOVERED = 0.65
"""Share of the peak reward above which a collapsed run has recovered."""
RELEASE = 10
"""Rows without a reason after which a level ends; a symptom ends after half of them, unless an alarm lasts."""
SIGNALS_READ = tuple(
    dict.fromkeys(
        (
            s.REWARD,
            *(name for check in (*VOTES, *SIGNS, *FAULTS) for name in check.signals),
            *LIKELIHOODS,
            s.LIKELIHOOD_INCORRECT,
            s.DISPLACEMENT_INCORRECT,
        )
    )
)
"""All signals that bear on a diagnosis."""
FATAL = ("reward_is_constant", "tools_fail")
"""Faults that are an alarm before the reward falls: nothing, or nothing true, is learned while they last."""


@dataclass
class _Lasting:
    """A condition with hysteresis: it ends only after some rows without it. Positions count rows, from 0.

    Attributes:
        position: At which it began; -1 while it does not hold.
        since: The iteration of that position.
        seen: Position at which it was last seen.
        strength: Highest so far.
        signal: That shows it.
        words: At the highest strength.
    """

    position: int = -1
    since: int = -1
    seen: int = -1
    strength: float = 0.0
    signal: str = ""
    words: str = ""

    @property
    def holds(self) -> bool:
        """Whether it has started and not ended."""
        return self.position >= 0

    def start(self, position: int, since: int) -> None:
        """Begin at a position, for something that was so since another."""
        self.position, self.since, self.strength = position, since, 0.0

    def end(self) -> None:
        """Hold no more."""
        self.position, self.since = -1, -1


class CollapseDetector:
    """Watches a run.

    Args:
        warmup: Rows that give the baselines, and in which nothing is said.

    Attributes:
        tracks: The signals so far.
        drift: Of the likelihood.
        instability: Of the policy.
        last: The newest diagnosis.
    """

    def __init__(self, warmup: int = 5) -> None:
        self.warmup = warmup
        self.tracks: dict[str, Track] = {}
        self.drift = Drift()
        self.instability = Instability()
        self.last = Diagnosis(-1)
        self._lasting: dict[str, _Lasting] = {}
        self._position = -1
        self._iterations: list[int] = []

    def update(self, iteration: int, row: Mapping[str, float]) -> Diagnosis:
        """Take in the signals of an iteration.

        Args:
            iteration: Its number, for what is said; logs may skip some.
            row: Signals by name (`llds.monitor.signals`). Unknown, missing and non-finite ones are passed over.

        Returns:
            The state of the run.
        """
        self._position += 1
        self._iterations = [*self._iterations[1 - RELEASE :], iteration]
        for name, value in tracked_values(row).items():
            self.tracks.setdefault(name, Track()).add(self._position, value, self.warmup)
        is_warm = max((track.count for track in self.tracks.values()), default=0) > self.warmup
        self.last = self._judge() if is_warm else Diagnosis(iteration)
        return self.last

    @property
    def level(self) -> Level:
        """The level that lasts."""
        if self._is("alarm"):
            return "alarm"
        return "warning" if self._is("warning") else "none"

    def state_dict(self) -> dict[str, Any]:
        """Everything, as plain numbers, strings, lists and dictionaries."""
        return {
            "warmup": self.warmup,
            "tracks": {name: track.state() for name, track in self.tracks.items()},
            "drift": asdict(self.drift),
            "instability": asdict(self.instability),
            "lasting": {name: asdict(one) for name, one in self._lasting.items()},
            "position": self._position,
            "iterations": self._iterations,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the detector that gave this state was."""
        self.warmup = state["warmup"]
        self.tracks = {name: Track.restore(track) for name, track in state["tracks"].items()}
        self.drift = Drift(**state["drift"])
        self.instability = Instability(**state["instability"])
        self._lasting = {name: _Lasting(**one) for name, one in state["lasting"].items()}
        self._position, self._iterations = state["position"], list(state["iterations"])

    def _judge(self) -> Diagnosis:
        self.drift.update(self._position, self.tracks)
        keep = self.level == "alarm"
        votes, votes_strength = self._look(VOTES, keep)
        faults, _ = self._look(FAULTS, keep)
        signs, signs_strength = self._look(SIGNS, keep)
        self.instability.update(signs_strength, is_new=self._all_new(SIGNS))
        unstable = self._hold("unstable", self.instability.is_unstable, delay=LASTING - 1)
        falls = self._hold("reward_falls", self._fall() >= self._fall_needed(votes_strength))
        lost = self._lost()
        self._hold("collapsed", falls and lost >= 1 - COLLAPSED, 0 if lost < 1 - RECOVERED else math.inf)
        # Seen now: those that merely last would hold an alarm that makes them last
        fatal = any(self._lasting[name].seen == self._position for name in FATAL)
        alarm = self._hold("alarm", falls or fatal or unstable)
        self._hold("warning", alarm or len(votes) + self.drift.is_decay >= 2 or bool(faults))
        return self._diagnose(votes, signs, faults)

    def _look(self, checks: Iterable[Check], keep: bool) -> tuple[list[Symptom], list[float]]:
        """The symptoms that last, and the strength of all whose signals are there now, weak ones too."""
        fresh = {name: track for name, track in self.tracks.items() if self._position - track.seen_at < RELEASE}
        lasting, strengths = [], []
        for check in checks:
            found = check.find(fresh)
            signal, strength, words = found or ("", 0.0, "")
            strengths += [strength] if found else []
            if self._hold(check.name, strength >= VOTE, math.inf if keep else RELEASE / 2, check.delay):
                one = self._lasting[check.name]
                if strength >= max(VOTE, one.strength):
                    one.strength, one.signal, one.words = strength, signal, words
                lasting.append(Symptom(check.name, one.signal, one.since, one.position, one.strength, one.words))
        return lasting, strengths

    def _hold(self, name: str, seen: bool, release: float = RELEASE, delay: int = 0) -> bool:
        """Whether a condition lasts, now that it is seen or not; ``delay`` rows ago it began unseen."""
        one = self._lasting.setdefault(name, _Lasting())
        if seen and not one.holds:
            back = min(delay, len(self._iterations) - 1)
            one.start(self._position - back, self._iterations[-1 - back])
        if seen:
            one.seen = self._position
        elif one.holds and self._position - one.seen >= release:
            one.end()
        return one.holds

    def _is(self, name: str) -> bool:
        return name in self._lasting and self._lasting[name].holds

    def _fall(self) -> float:
        reward = self.tracks.get(s.REWARD)
        return max(reward.fall(reward.fast), reward.fall(reward.slow)) if reward is not None else 0.0

    def _fall_needed(self, votes: Iterable[float]) -> float:
        """Share of the peak reward whose loss is an alarm."""
        needed = FALL - FALL_PER_VOTE * min(MAX_VOTES, sum(votes))
        return max(needed, FALL_WHEN_CALM) if self.instability.is_calm else needed

    def _all_new(self, checks: Iterable[Check]) -> bool:
        """Whether all that they look at was in this row."""
        names = [name for check in checks for name in check.signals]
        return all(name in self.tracks and self.tracks[name].seen_at == self._position for name in names)

    def _lost(self) -> float:
        """Share of the peak of the smoothed reward that is lost, luck included."""
        reward = self.tracks.get(s.REWARD)
        if reward is None or reward.fast.highest is None or reward.room <= 0:
            return 0.0
        return (reward.fast.highest - reward.fast.value) / reward.room

    def _phase(self) -> Phase:
        if self._is("reward_falls"):
            return "collapsed" if self._is("collapsed") else "acceleration"
        if self._is("unstable"):
            return "acceleration"
        if self.drift.is_decay:
            return "decay"
        return "stagnation" if self.drift.idle >= STAGNATION else "healthy"

    def _diagnose(self, votes: list[Symptom], signs: list[Symptom], faults: list[Symptom]) -> Diagnosis:
        iteration, level, phase, lost = self._iterations[-1], self.level, self._phase(), self._lost()
        if level == "none":
            return Diagnosis(iteration, phase, reward_lost=lost)
        symptoms = sorted((*votes, *signs, *faults), key=lambda one: -one.strength)
        # Single actions that fall are the paper's displacement, not yet instability
        unstable = [one.position for one in votes if one.name != "correct_actions_fall"]
        unstable += [self._lasting[name].position for name in ("reward_falls", "unstable") if self._is(name)]
        found = attribute({one.name: one for one in symptoms}, self.drift, self.tracks, min(unstable, default=None))
        return Diagnosis(
            iteration=iteration,
            phase=phase,
            level=level,
            reward_lost=lost,
            confidence=self._confidence(votes, signs),
            symptoms=tuple(symptoms),
            since=self._lasting[level].since,
            iterations_to_collapse=self._iterations_to_collapse(),
            cause=found.cause,
            evidence=found.evidence,
            advice=found.advice,
        )

    def _confidence(self, votes: list[Symptom], signs: list[Symptom]) -> float:
        able = sum(any(name in self.tracks for name in check.signals) for check in (*VOTES, *SIGNS))
        able += (s.REWARD in self.tracks) + bool(self.drift.signal)
        return (len(votes) + len(signs) + self._is("reward_falls") + self.drift.is_decay) / max(able, 1)

    def _iterations_to_collapse(self) -> float | None:
        """Where the line through the last rewards meets half of the peak, if its slope is more than noise."""
        reward = self.tracks.get(s.REWARD)
        if reward is None or reward.fast.highest is None or len(self._iterations) < 2:
            return None
        length = min(8, len(reward.recent))
        slope, left = reward.slope(length), reward.fast.value - (reward.fast.highest - (1 - COLLAPSED) * reward.room)
        error = reward.noise * math.sqrt(12 / max(length**3 - length, 1))
        stride = (self._iterations[-1] - self._iterations[0]) / (len(self._iterations) - 1)
        return stride * left / -slope if left > 0 and slope < -2 * error else None


def diagnose(table: Iterable[tuple[int, Mapping[str, float]]], *, warmup: int = 5) -> list[Diagnosis]:
    """Judge every iteration of a recorded run, as the detector would have while it ran.

    Where the run went back to the weights of an earlier iteration, so does the detector: what came after is forgotten.

    Args:
        table: Iteration numbers and their signals, in order.
        warmup: See `CollapseDetector`.
    """
    detector, kept, said = CollapseDetector(warmup), [], []
    for iteration, row in table:
        kept.append((iteration, row))
        said.append(detector.update(iteration, row))
        back = row.get(s.BACK_TO, math.nan)
        if not math.isnan(back):
            kept, detector = [one for one in kept if one[0] <= back], CollapseDetector(warmup)
            for one in kept:
                detector.update(*one)
    return said

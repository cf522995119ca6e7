"""The detector: one update per iteration, in constant time and memory; the same online and on a recorded table.

An **alarm** has one of these reasons, and ends with it: values that are no numbers; a reward that falls (by what it
shows alone, or by less where the likelihood of correct responses is in the log and other signals vote); a policy that
is unstable (`llds.monitor.symptoms.instability`); a reward that is constant, tools that fail. A **warning** is a fault
that lasts, or a policy that becomes unstable. What else is unusual also occurs in runs that go on well: a **note**.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from llds.monitor import signals as s
from llds.monitor.advice import Settings, advise
from llds.monitor.causes import Attribution, attribute
from llds.monitor.diagnosis import Diagnosis, Level, Phase, RewardFall, Symptom
from llds.monitor.memory.departures import FOLLOWED, Departure, far, moved
from llds.monitor.memory.drift import LIKELIHOODS, Drift
from llds.monitor.memory.lasting import Lasting
from llds.monitor.memory.numerics import WATCHED, Numerics
from llds.monitor.memory.reward import ENDS_AT, SHARE_OF_GAIN, SHARE_WITH_LIKELIHOOD, RewardWatch
from llds.monitor.memory.rhythm import Rhythm
from llds.monitor.memory.row import tracked_values
from llds.monitor.memory.track import Track
from llds.monitor.symptoms import lengths
from llds.monitor.symptoms.check import VOTE, Check
from llds.monitor.symptoms.faults import FAULTS
from llds.monitor.symptoms.instability import LASTING, SIGNS, Instability
from llds.monitor.symptoms.votes import VOTES

ERRORS = 3.0
"""Standard errors by which the reward must fall where votes about the likelihood agree, before they lower it..."""
ERRORS_PER_VOTE = 1.0
MAX_VOTES = 2.0
"""...by that much each, and no more of them."""
ERRORS_WHEN_QUIET = 3.5
"""The same where the likelihood is logged and nothing votes, or the policy is calm: then most votes are luck."""
FAR = 2
"""Of entropy, length and the share of cut responses, how many must be far from their usual level for `ERRORS` to do."""
STAGNATION = 10
"""Iterations without a new best likelihood until it stagnates."""
RELEASE = 10
"""Rows without a reason after which a note or warning ends; a symptom after half of them, unless an alarm lasts."""
SOON = 3
"""Rows without its reason after which an alarm ends."""
WARN = (
    "responses_explode",
    "gap_from_the_start",
    "gap_grows",
    "searches_find_nothing",
    "searches_vanish",
    "format_breaks",
    "reward_is_blind",
    "learning_rate_jumps",
    "prompts_repeat",
)
"""Faults that are worth a person's look by themselves; the others are notes until the reward falls."""
WARN_SIGNS, WARN_VOTES = 2, 3
"""Signs of instability and votes that together are."""
FATAL = ("reward_is_constant", "tools_fail")
"""Faults that are an alarm before the reward falls: nothing, or nothing true, is learned while they last."""
SIGNALS_READ = tuple(
    dict.fromkeys(
        (
            s.REWARD,
            s.REWARD_LOWEST,
            s.REWARD_HIGHEST,
            *(name for check in (*VOTES, *SIGNS, *FAULTS) for name in check.signals),
            *LIKELIHOODS,
            s.LIKELIHOOD_INCORRECT,
            s.DISPLACEMENT_INCORRECT,
            *WATCHED,
            *FOLLOWED,
        )
    )
)
"""All signals that bear on a diagnosis."""


class CollapseDetector:
    """Watches a run.

    Args:
        warmup: Rows that give the baselines, and in which only what is no number is told.
        settings: What is known of the run's settings, so that nothing is advised that is on.
        strictness: Factor of the standard errors by which a reward must fall: below 1 for earlier alarms and more false
            ones.

    Attributes:
        tracks: The signals so far.
        reward: How the reward stands.
        drift: Of the likelihood.
        instability: Of the policy.
        numerics: What was not finite.
        departures: What has left its usual level.
        last: The newest diagnosis.
    """

    def __init__(self, warmup: int = 5, settings: Settings | None = None, strictness: float = 1.0) -> None:
        self.warmup = warmup
        self.settings = settings or Settings()
        self.tracks: dict[str, Track] = {}
        self.reward = RewardWatch(strictness)
        self.drift = Drift()
        self.instability = Instability()
        self.numerics = Numerics()
        self.departures: dict[str, Departure] = {}
        self.last = Diagnosis(-1)
        self._lasting: dict[str, Lasting] = {}
        self._rhythm = Rhythm()
        self._rows = 0
        self._position = -1
        self._iterations: list[int] = []

    def update(self, iteration: int, row: Mapping[str, float]) -> Diagnosis:
        """Take in the signals of an iteration, or of a step of one (`llds.monitor.memory.rhythm`).

        Args:
            iteration: Its number, for what is said; logs may skip some.
            row: Signals by name (`llds.monitor.signals`). Unknown and missing ones are passed over.

        Returns:
            The state of the run.
        """
        self._rows += 1
        self.numerics.update(self._rows, iteration, row)
        whole = self._rhythm.add(row, at_once=self.numerics.is_lasting)
        if whole is None:
            self.last = replace(self.last, iteration=iteration)
            return self.last
        self._position += 1
        self._iterations = [*self._iterations[1 - RELEASE :], iteration]
        self._remember(iteration, whole)
        is_warm = max((track.count for track in self.tracks.values()), default=0) > self.warmup
        self.last = self._judge() if is_warm or self.numerics.is_lasting else Diagnosis(iteration)
        return self.last

    @property
    def level(self) -> Level:
        """The level that lasts."""
        levels: tuple[Level, ...] = ("alarm", "warning", "note")
        return next((level for level in levels if self._is(level)), "none")

    def state_dict(self) -> dict[str, Any]:
        """Everything, as plain numbers, strings, lists and dictionaries."""
        return {
            "warmup": self.warmup,
            "tracks": {name: track.state() for name, track in self.tracks.items()},
            "reward": self.reward.state(),
            "drift": asdict(self.drift),
            "instability": asdict(self.instability),
            "numerics": asdict(self.numerics),
            "departures": {name: one.state() for name, one in self.departures.items()},
            "lasting": {name: asdict(one) for name, one in self._lasting.items()},
            "rhythm": asdict(self._rhythm),
            "rows": self._rows,
            "position": self._position,
            "iterations": self._iterations,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the detector that gave this state was."""
        self.warmup = state["warmup"]
        self.tracks = {name: Track.restore(track) for name, track in state["tracks"].items()}
        self.reward = RewardWatch.restore(state["reward"])
        self.drift = Drift(**state["drift"])
        self.instability = Instability(**state["instability"])
        self.numerics = Numerics(**state["numerics"])
        self.departures = {name: Departure(**one) for name, one in state["departures"].items()}
        self._lasting = {name: Lasting(**one) for name, one in state["lasting"].items()}
        self._rhythm, self._rows = Rhythm(**state.get("rhythm", {})), state.get("rows", state["position"] + 1)
        self._position, self._iterations = state["position"], list(state["iterations"])

    def _remember(self, iteration: int, row: Mapping[str, float]) -> None:
        values = tracked_values(row)
        for name, value in values.items():
            self.tracks.setdefault(name, Track()).add(self._position, value, self.warmup)
        if s.REWARD in values:
            bounds = [values[name] for name in (s.REWARD_LOWEST, s.REWARD_HIGHEST) if name in values]
            self.reward.add(values[s.REWARD], (bounds[0], bounds[1]) if len(bounds) == 2 else None)
        reward = self.reward.now if self.reward.count else None
        for name in FOLLOWED:
            if name in values:
                one = self.departures.setdefault(name, Departure())
                one.update(self._position, iteration, name, self.tracks[name], reward)

    def _judge(self) -> Diagnosis:
        self.drift.update(self._position, self.tracks)
        keep = self.level == "alarm"
        votes, votes_strength = self._look(VOTES, keep)
        faults, _ = self._look(FAULTS, keep)
        faults += self._lasting_symptom(lengths.NAME, lengths.find(self.departures), keep)
        faults += self._lasting_symptom("reward_is_constant", self._constant(), keep, self.reward.same - 1)
        signs, signs_strength = self._look(SIGNS, keep)
        self.instability.update(signs_strength, is_new=self._all_new(SIGNS))
        unstable = self._hold("unstable", self.instability.is_unstable, SOON, delay=LASTING - 1)
        falls = self._hold("reward_falls", self._falls(sum(votes_strength)), SOON)
        self._hold("collapsed", falls and self.reward.is_lost, 1 if self.reward.is_half_back else math.inf)
        # Seen now: those that merely last would hold an alarm that makes them last
        fatal = any(self._lasting[name].seen == self._position for name in FATAL)
        broken = self._hold("not_finite", self.numerics.is_lasting, SOON)
        alarm = self._hold("alarm", falls or fatal or unstable or broken, 1)
        shaky = self._hold("shaky", len(signs) >= WARN_SIGNS and len(votes) >= WARN_VOTES, SOON)
        warns = shaky or any(one.name in WARN for one in faults)
        warning = self._hold("warning", alarm or warns, 1)
        odd = len(votes) + self.drift.is_decay >= 2 or bool(faults) or self.numerics.is_any
        self._hold("note", warning or odd)
        return self._diagnose(votes, signs, faults)

    def _look(self, checks: Iterable[Check], keep: bool) -> tuple[list[Symptom], list[float]]:
        """The symptoms that last, and the strength of all whose signals are there now, weak ones too."""
        fresh = {name: track for name, track in self.tracks.items() if self._position - track.seen_at < RELEASE}
        lasting: list[Symptom] = []
        strengths = []
        for check in checks:
            found = check.find(fresh)
            strengths += [found[1]] if found else []
            lasting += self._lasting_symptom(check.name, found, keep, check.delay)
        return lasting, strengths

    def _lasting_symptom(
        self, name: str, found: tuple[str, float, str] | None, keep: bool, delay: int = 0
    ) -> list[Symptom]:
        """The symptom, if it lasts."""
        signal, strength, words = found or ("", 0.0, "")
        if not self._hold(name, strength >= VOTE, math.inf if keep else RELEASE / 2, delay):
            return []
        one = self._lasting[name]
        if strength >= max(VOTE, one.strength):
            one.strength, one.signal, one.words = strength, signal, words
        return [Symptom(name, one.signal, one.since, one.position, one.strength, one.words)]

    def _hold(self, name: str, seen: bool, release: float = RELEASE, delay: int = 0) -> bool:
        """Whether a condition lasts, now that it is seen or not; ``delay`` rows ago it began unseen."""
        one = self._lasting.setdefault(name, Lasting())
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

    def _falls(self, votes: float) -> bool:
        """Whether the reward falls, by itself or together with what the log says of likelihood."""
        if self.reward.falls:
            return True
        if far(self.departures) >= FAR and self.reward.falls_with(ERRORS, SHARE_OF_GAIN):
            return True
        if not any(name in self.tracks for name in (s.LLD_RATE, *LIKELIHOODS)):
            return False
        agree = votes >= 1 and not self.instability.is_calm
        needed = ERRORS - ERRORS_PER_VOTE * min(MAX_VOTES, votes) if agree else ERRORS_WHEN_QUIET
        if self._is("reward_falls"):  # it ends later than it began, so that it does not come and go
            return self.reward.falls_with(
                ENDS_AT * min(needed, ERRORS - ERRORS_PER_VOTE), ENDS_AT * SHARE_WITH_LIKELIHOOD
            )
        return self.reward.falls_with(needed, SHARE_WITH_LIKELIHOOD)

    def _constant(self) -> tuple[str, float, str] | None:
        if not self.reward.count:
            return None
        words = f"reward is {self.reward.now:.3g} in each of the last {self.reward.same} rows"
        return s.REWARD, float(self.reward.is_constant), words

    def _all_new(self, checks: Iterable[Check]) -> bool:
        """Whether all that they look at was in this row."""
        names = [name for check in checks for name in check.signals]
        return all(name in self.tracks and self.tracks[name].seen_at == self._position for name in names)

    def _phase(self) -> Phase:
        if self._is("reward_falls"):
            return "collapsed" if self._is("collapsed") else "acceleration"
        if self._is("unstable"):
            return "acceleration"
        if self.drift.is_decay and self.drift.signal in LIKELIHOODS:
            return "decay"
        return "stagnation" if self.drift.idle >= STAGNATION and self.drift.signal in LIKELIHOODS else "healthy"

    def _diagnose(self, votes: list[Symptom], signs: list[Symptom], faults: list[Symptom]) -> Diagnosis:
        iteration, level, phase = self._iterations[-1], self.level, self._phase()
        reward = RewardFall(self.reward.peak, self.reward.now, self.reward.errors) if self.reward.count else None
        if level == "none":
            return Diagnosis(iteration, phase, reward=reward)
        symptoms = sorted((*votes, *signs, *faults), key=lambda one: -one.strength)
        # A note blames nothing and advises nothing: runs that go on well have them too
        found = self._attribute(symptoms, votes) if level != "note" else None
        return Diagnosis(
            iteration=iteration,
            phase=phase,
            level=level,
            reward=reward,
            confidence=self._confidence(votes, signs),
            symptoms=tuple(symptoms),
            since=self._lasting[level].since,
            cause=found.cause if found else None,
            evidence=found.evidence if found else tuple(one.words for one in symptoms),
            moved=tuple(words for _, words in moved(self.departures)),
            advice=advise(found.cause, self.settings) if found else "",
        )

    def _attribute(self, symptoms: list[Symptom], votes: list[Symptom]) -> Attribution:
        if self.numerics.is_lasting:
            return Attribution("not_finite", (self.numerics.words,))
        # Single actions that fall are the paper's displacement, not yet instability
        unstable = [one.position for one in votes if one.name != "correct_actions_fall"]
        fallen = [self._lasting[name].position for name in ("reward_falls", "unstable") if self._is(name)]
        return attribute(
            {one.name: one for one in symptoms},
            self.drift,
            self.tracks,
            unstable_from=min([*unstable, *fallen], default=None),
            fallen_from=min(fallen, default=None),
            departures=self.departures,
            position=self._position,
            judged_from=self.warmup,
        )

    def _confidence(self, votes: list[Symptom], signs: list[Symptom]) -> float:
        able = sum(any(name in self.tracks for name in check.signals) for check in (*VOTES, *SIGNS))
        able += (s.REWARD in self.tracks) + bool(self.drift.signal)
        return (len(votes) + len(signs) + self._is("reward_falls") + self.drift.is_decay) / max(able, 1)


def diagnose(
    table: Iterable[tuple[int, Mapping[str, float]]],
    *,
    warmup: int = 5,
    settings: Settings | None = None,
    strictness: float = 1.0,
) -> list[Diagnosis]:
    """Judge every iteration of a recorded run, as the detector would have while it ran.

    Where the run went back to the weights of an earlier iteration, so does the detector: what came after is forgotten.

    Args:
        table: Iteration numbers and their signals, in order.
        warmup: See `CollapseDetector`.
        settings: See `CollapseDetector`.
        strictness: See `CollapseDetector`.
    """
    detector, kept, said = CollapseDetector(warmup, settings, strictness), [], []
    for iteration, row in table:
        kept.append((iteration, row))
        said.append(detector.update(iteration, row))
        back = row.get(s.BACK_TO, math.nan)
        if not math.isnan(back):
            kept = [one for one in kept if one[0] <= back]
            detector = CollapseDetector(warmup, settings, strictness)
            for one in kept:
                detector.update(*one)
    return said

"""What a log as a whole lets one say, and from what; also that it lets one say nothing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Literal

from llds.monitor import signals as s
from llds.monitor.diagnosis import Diagnosis
from llds.monitor.memory.drift import LIKELIHOODS
from llds.monitor.memory.reward import CONSTANT, RewardWatch

Kind = Literal["alarm", "warning", "no_reward", "too_short", "no_trend", "too_noisy", "quiet"]
ENOUGH = 12
"""Rows with a reward from which something can be said."""
GAINED = 3.0
"""Standard errors from which a gain is one."""
UNJUDGED: tuple[Kind, ...] = ("no_reward", "too_short")
"""Verdicts that are none."""
QUIET = "nothing is wrong that can be seen"
LIKELIHOOD = "likelihood of correct responses"
_GROUPS = {
    "reward": (s.REWARD,),
    LIKELIHOOD: (s.LLD_RATE, *LIKELIHOODS),
    "likelihood ratios": (s.RATIO_P99, s.RATIO_MAX),
    "clipping": (s.CLIP_SHARE,),
    "entropy": (s.ENTROPY,),
    "gradient": (s.GRAD_NORM,),
    "response length": (s.ACTION_TOKENS,),
    "cut responses": (s.ACTION_CUT,),
    "sampler gap": (s.GAP_MEAN, s.BEHAVIOR_KL),
    "format": (s.ANSWERED, s.VALID_ACTIONS),
    "tools": (s.TOOL_CALLS, s.FAILED, s.TOOL_FAILURES),
}

Rows = Sequence[tuple[int, Mapping[str, float]]]


@dataclass(frozen=True)
class Verdict:
    """The verdict on a log.

    Attributes:
        kind: In one word; `UNJUDGED` are those that say nothing about the run.
        words: In a sentence.
        judged_from: The kinds of signals that it rests on.
    """

    kind: Kind
    words: str
    judged_from: tuple[str, ...]

    @property
    def basis(self) -> str:
        """What it rests on, in words."""
        seen = ", ".join(self.judged_from) or "nothing that it knows"
        early = "" if LIKELIHOOD in self.judged_from else "; no likelihood, so no early warning"
        return f"{seen}{early}"


def give_verdict(rows: Rows, diagnoses: Sequence[Diagnosis]) -> Verdict:
    """Judge a log by its rows and the detector's diagnoses of them, one of each at least."""
    present = {name for _, row in rows for name in row}
    basis = tuple(group for group, names in _GROUPS.items() if present & set(names))
    level = diagnoses[-1].level
    if level == "alarm" or level == "warning":
        return Verdict(level, f"{level} since iteration {diagnoses[-1].since}", basis)
    rewards = [row[s.REWARD] for _, row in rows if s.REWARD in row and math.isfinite(row[s.REWARD])]
    if not rewards:
        return Verdict("no_reward", "no reward among the columns: nothing can be said about a collapse", basis)
    stride = _stride([at for at, row in rows if s.REWARD in row])
    if len(rewards) < ENOUGH:
        rows_seen = "1 row" if len(rewards) == 1 else f"{len(rewards)} rows"
        words = (
            f"too short to say: {rows_seen} with a reward{_in_iterations(len(rewards), stride)}, {ENOUGH} are needed"
        )
        return Verdict("too_short", words, basis)
    watch = RewardWatch()
    for reward in rewards:
        watch.add(reward)
    kind, words = _by_the_noise(watch, stride, _trajectories(rows))
    if kind == "too_noisy" and LIKELIHOOD in basis:  # which shows more than the reward does
        kind, words = "quiet", QUIET
    if watch.same >= CONSTANT:  # by luck, or because nothing more can be learned: too early for an alarm
        words += f"; reward is {rewards[-1]:.3g} in each of the last {watch.same} rows"
    return Verdict(kind, words, basis)


def _by_the_noise(watch: RewardWatch, stride: int, trajectories: int | None) -> tuple[Kind, str]:
    """Whether a fall that matters would have been seen."""
    noise, level = watch.noise, watch.levels["median"]
    seen = level.needed * level.error(noise)
    gain = max(one.gain(noise) for one in watch.levels.values())
    within = f"{level.window:.0f} rows{_in_iterations(level.window, stride)}"
    scatter = f"rows scatter by {noise:.2g}, so that only a fall of {seen:.2g} shows within {within}"
    if noise <= 0:
        return "quiet", QUIET
    if all(one.gain(noise) < GAINED * one.error(noise) for one in watch.levels.values()):
        more = _more(4, trajectories)
        return "no_trend", f"reward neither rose nor fell by more than its noise: {scatter}; {more} would halve that"
    matters = gain / 2
    if seen > 2 * matters:
        more = _more((seen / matters) ** 2, trajectories)
        return "too_noisy", f"too noisy to judge: {scatter}, and the gain is {gain:.2g}; it would take {more}"
    return "quiet", QUIET


def _stride(iterations: Sequence[int]) -> int:
    """Iterations from one row with a reward to the next."""
    return int(median([after - before for before, after in pairwise(iterations)] or [1]))


def _in_iterations(rows: float, stride: int) -> str:
    return f" ({rows * stride:.0f} iterations)" if stride > 1 else ""


def _more(factor: float, trajectories: int | None) -> str:
    times = f"{math.ceil(factor)} times as many trajectories a row"
    return times if trajectories is None else f"{times} ({math.ceil(factor * trajectories)})"


def _trajectories(rows: Rows) -> int | None:
    counts = [row[s.TRAJECTORIES] for _, row in rows if row.get(s.TRAJECTORIES, 0) > 0]
    return int(counts[-1]) if counts else None

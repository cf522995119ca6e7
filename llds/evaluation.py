"""Results of an evaluation: trajectories in, one record per data source out.

Every question counts: a failed trajectory scores 0 and is reported, so that no outage can raise a score.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llds.metrics import served_calls
from llds.rewards import exact_match, token_f1
from llds.types import Trajectory

ALL = "all"
"""Name of the record over all data sources."""


@dataclass(frozen=True)
class SourceResult:
    """Results on one data source.

    Attributes:
        name: The data source, or "all".
        n: Questions.
        exact_match: Share answered exactly, 0-1.
        exact_match_low: Lower end of its 95% interval (Wilson).
        exact_match_high: Upper end.
        f1: Mean token F1, 0-1.
        searches: Mean tool calls served per question.
        valid_action_rate: Share of actions that the protocol could read.
        failed: Trajectories that infrastructure failed.
    """

    name: str
    n: int
    exact_match: float
    exact_match_low: float
    exact_match_high: float
    f1: float
    searches: float
    valid_action_rate: float
    failed: int

    def metrics(self) -> dict[str, float]:
        """The numbers, for loggers."""
        return {key: float(value) for key, value in vars(self).items() if key != "name"}


def evaluate_by_source(trajectories: Sequence[Trajectory]) -> list[SourceResult]:
    """One record over all trajectories, then one per data source in order of appearance.

    Args:
        trajectories: One per question; none gives no records.
    """
    if not trajectories:
        return []
    names = dict.fromkeys(trajectory.prompt.data_source for trajectory in trajectories)
    by_source = [[t for t in trajectories if t.prompt.data_source == name] for name in names]
    return [_result(ALL, trajectories)] + [_result(name, part) for name, part in zip(names, by_source, strict=True)]


def wilson_interval(successes: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """95% interval of a proportion (Wilson 1927), good at 0 and 1 too."""
    share, square = successes / n, z * z
    centre = (share + square / (2 * n)) / (1 + square / n)
    half = z * math.sqrt(share * (1 - share) / n + square / (4 * n * n)) / (1 + square / n)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def _result(name: str, trajectories: Sequence[Trajectory]) -> SourceResult:
    n = len(trajectories)
    pairs = [(None if t.status == "failed" else t.answer, t.prompt.golden_answers) for t in trajectories]
    matches = sum(exact_match(answer, golds) for answer, golds in pairs)
    low, high = wilson_interval(matches, n)
    actions = [turn.action for trajectory in trajectories for turn in trajectory.turns]
    return SourceResult(
        name=name,
        n=n,
        exact_match=matches / n,
        exact_match_low=low,
        exact_match_high=high,
        f1=sum(token_f1(answer, golds) for answer, golds in pairs) / n,
        searches=sum(served_calls(trajectory) for trajectory in trajectories) / n,
        valid_action_rate=sum(action.kind != "invalid" for action in actions) / max(len(actions), 1),
        failed=sum(trajectory.status == "failed" for trajectory in trajectories),
    )

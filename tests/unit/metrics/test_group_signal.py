"""Which groups have a signal, and what over-sampling did, against arithmetic by hand."""

import pytest

from llds.metrics import by_signal, oversampling_metrics
from llds.types import Action, Prompt, SamplingParams, Trajectory, Turn


def trajectory(group: str, reward: float, tokens: int = 1) -> Trajectory:
    turns = [Turn([7] * tokens, [-1.0] * tokens, "stop", Action("answer", "", "x"))]
    return Trajectory(Prompt("p", "q", ("x",)), group, 0, SamplingParams(), turns=turns, reward=reward)


def names(groups: list[list[Trajectory]]) -> list[str]:
    return [group[0].group_id for group in groups]


def test_a_group_has_a_signal_where_its_rewards_differ() -> None:
    rewards = {"b": (0.0, 1.0), "a": (1.0, 1.0), "d": (0.0, 0.0), "c": (0.3, 0.3), "e": (0.3, 0.7)}
    found = by_signal([trajectory(name, value) for name, values in rewards.items() for value in values])
    assert names(found.with_signal) == ["b", "e"]  # partly right answers count as they are rewarded
    assert names(found.all_correct) == ["a", "c"]
    assert names(found.all_wrong) == ["d"]


def test_what_oversampling_did_by_hand() -> None:
    first = [trajectory("a", 1.0, 5), trajectory("a", 1.0, 3), trajectory("b", 0.0, 2), trajectory("b", 0.0, 2)]
    second = [trajectory("c", 1.0, 1), trajectory("c", 0.0, 3)]
    groups = by_signal(first + second)
    assert oversampling_metrics(groups, [first, second], trained=second) == pytest.approx(
        {
            "rollout/rounds": 2,
            "rollout/groups_drawn": 3,
            "rollout/groups_with_signal": 1,
            "rollout/groups_all_correct": 1,
            "rollout/groups_all_wrong": 1,
            "rollout/further_tokens": 4 / 16,
            "reward/mean_trained": 1 / 2,  # of the six that were sampled it is also 3 / 6
        }
    )
    assert "reward/mean_trained" not in oversampling_metrics(groups, [first, second], trained=[])

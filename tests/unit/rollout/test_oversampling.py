"""How many prompts the next round has, and which groups stay."""

from dataclasses import replace
from typing import Any

import pytest

from llds.errors import ConfigurationError
from llds.metrics import by_signal
from llds.rollout import Oversampling
from llds.types import Prompt, SamplingParams, Trajectory

REWARDS = {"1 wrong": (0, 0), "2 mixed": (1, 0), "3 right": (1, 1), "4 mixed": (0, 1), "5 mixed": (1, 0)}


@pytest.mark.parametrize(
    ("wanted", "drawn", "found", "expected"),
    [
        (24, 24, 24, 0),
        (24, 24, 25, 0),  # more than enough
        (24, 24, 12, 24),  # 12 are missing, and half have a signal
        (24, 24, 16, 12),  # 8 are missing, and two thirds have one
        (24, 48, 22, 5),  # 2 / (22 / 48) = 4.4
        (24, 48, 7, 24),  # 17 / (7 / 48) = 117 are more than 3 * 24 - 48
        (24, 24, 0, 48),  # none has: all that may be drawn
        (24, 72, 23, 0),  # the bound is met
        (24, 72, 0, 0),
    ],
)
def test_a_round_draws_what_should_hold_the_missing_groups(wanted: int, drawn: int, found: int, expected: int) -> None:
    assert Oversampling(max_factor=3.0).next_round(wanted, drawn, found) == expected


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9])
@pytest.mark.parametrize("factor", [1.1, 2.0, 7.3])
def test_rounds_end_and_stay_within_the_bound(share: float, factor: float) -> None:
    oversampling, drawn, rounds = Oversampling(factor), 10, 0
    while count := oversampling.next_round(10, drawn, int(share * drawn)):
        drawn, rounds = drawn + count, rounds + 1
        assert rounds < 100
    assert drawn <= 10 * factor
    assert int(share * drawn) >= 10 or drawn == int(10 * factor)


@pytest.mark.parametrize(
    ("without_signal", "expected"),
    [
        ("drop", ["2 mixed", "4 mixed"]),
        ("keep_correct", ["2 mixed", "3 right", "4 mixed"]),
        ("keep", ["1 wrong", "2 mixed", "3 right", "4 mixed"]),
    ],
)
def test_groups_without_a_signal_stay_as_the_setting_says_and_too_many_with_one_do_not(
    without_signal: Any, expected: list[str]
) -> None:
    trajectories = [
        Trajectory(Prompt("p", "q", ("x",)), name, index, SamplingParams(), reward=reward, is_correct=reward > 0)
        for index, (name, reward) in enumerate((name, reward) for name, both in REWARDS.items() for reward in both)
    ]
    chosen = Oversampling(without_signal=without_signal).select(by_signal(trajectories), wanted=2)
    assert [one.group_id for one in chosen] == [name for name in expected for _ in range(2)]
    assert [one.index for one in chosen] == sorted(one.index for one in chosen)


@pytest.mark.parametrize(
    "change", [{"max_factor": 1.0}, {"max_factor": 0.5}, {"max_factor": float("inf")}, {"without_signal": "train"}]
)
def test_bad_settings_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"rollout\.oversampling.*max_factor > 1.*drop, keep_correct, keep"):
        replace(Oversampling(), **change)

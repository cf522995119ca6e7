"""Rewards of other people's classes: a number, or one sentence that names the class and the trajectory."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.utilities.exceptions import SIGTERMException

from llds.errors import ConfigurationError
from llds.rewards import Reward
from llds.rollout.scoring import score
from llds.types import Prompt, SamplingParams, Trajectory


class Theirs(Reward):
    """Gives what a function gives."""

    def __init__(self, function: Callable[[Trajectory], Any]) -> None:
        self.function = function

    def __call__(self, trajectory: Trajectory) -> float:
        """What the function gives."""
        return self.function(trajectory)  # type: ignore[no-any-return]


def scored(function: Callable[[Trajectory], Any], **changes: Any) -> float:
    prompt = Prompt("q7", "Who?", ("a",), origin="train.jsonl:7")
    return score(Theirs(function), Trajectory(prompt, "g", 3, SamplingParams(), **changes))


def leave(_: Trajectory) -> Any:
    raise SystemExit(2)


@pytest.mark.parametrize("value", [1, 0.25, True, np.float32(0.25), np.int64(1)])
def test_any_finite_number_is_a_reward(value: Any) -> None:
    assert scored(lambda _: value) == float(value)
    assert type(scored(lambda _: value)) is float


@pytest.mark.parametrize(
    "value", [None, "1.0", [1.0], {}, float("nan"), float("inf"), 1j, pytest.param(10**400, id="huge")]
)
def test_anything_else_is_refused_by_class_trajectory_and_question(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"Theirs \(`rollout\.reward`\) for trajectory 3, question 'q7'.*got"):
        scored(lambda _: value)


@pytest.mark.parametrize(("function", "said"), [(lambda _: 1 / 0, "ZeroDivisionError"), (leave, "SystemExit: 2")])
def test_a_class_that_raises_or_exits_is_named(function: Callable[[Trajectory], Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"Theirs.*train\.jsonl:7.*{said}"):
        scored(function)


def test_a_trajectory_that_failed_is_not_shown_to_the_class() -> None:
    assert scored(leave, status="failed") == 0.0


@pytest.mark.parametrize("signal", [KeyboardInterrupt, SIGTERMException])
def test_a_signal_is_no_doing_of_the_class(signal: type[BaseException]) -> None:
    def interrupt(_: Trajectory) -> Any:
        raise signal

    with pytest.raises(signal):
        scored(interrupt)

"""Rewards of other people's classes: a number, or one sentence that names the class and the trajectory."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.utilities.exceptions import SIGTERMException

from llds.errors import ConfigurationError
from llds.rewards import F1Reward, Reward
from llds.rollout.scoring import Correctness, score
from llds.types import Action, Prompt, SamplingParams, Trajectory, Turn


class Theirs(Reward):
    """Gives what a function gives."""

    def __init__(self, function: Callable[[Trajectory], Any]) -> None:
        self.function = function

    def __call__(self, trajectory: Trajectory) -> float:
        """What the function gives."""
        return self.function(trajectory)  # type: ignore[no-any-return]


def scored(function: Callable[[Trajectory], Any], **changes: Any) -> float:
    prompt = Prompt("q7", "Who?", ("a",), origin="train.jsonl:7")
    trajectory = Trajectory(prompt, "g", 3, SamplingParams(), **changes)
    score(Theirs(function), trajectory)
    return trajectory.reward


def judged(reward: Reward, answer: str, correct: Correctness | None = None) -> tuple[float, bool]:
    turns = [Turn([3], [-0.1], "stop", Action("answer", "", answer))]
    trajectory = Trajectory(Prompt("q7", "Where?", ("city of Oslo",)), "g", 3, SamplingParams(), turns=turns)
    score(reward, trajectory, correct)
    return round(trajectory.reward, 2), trajectory.is_correct


def test_a_word_overlap_is_a_reward_but_no_right_answer() -> None:
    assert judged(F1Reward(), "the city of Bergen") == (0.67, False)
    assert judged(F1Reward(), "The city of Oslo!") == (1.0, True)
    assert judged(F1Reward(), "the city of Bergen", Correctness(at_least=0.6)) == (0.67, True)


def test_a_bonus_makes_no_wrong_answer_right() -> None:
    form = Theirs(lambda one: 1.2 if one.answer == "city of Oslo" else 0.2)
    assert [judged(form, answer)[1] for answer in ("city of Oslo", "Bergen")] == [True, False]


def test_a_class_that_judges_better_than_exact_match_says_from_where_on() -> None:
    verifier = Theirs(lambda one: 0.8 * float("Oslo" in (one.answer or "")))
    assert judged(verifier, "Oslo, the city") == (0.8, False)
    verifier.correct_from = 0.8
    assert judged(verifier, "Oslo, the city") == (0.8, True)


def test_a_threshold_that_is_no_number_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"rollout\.correct\.at_least"):
        Correctness(at_least=float("nan"))


def leave(_: Trajectory) -> Any:
    raise SystemExit(2)


@pytest.mark.parametrize("value", [1, 0.25, True, np.float32(0.25), np.int64(1)])
def test_any_finite_number_is_a_reward(value: Any) -> None:
    assert scored(lambda _: value) == float(value)
    assert type(scored(lambda _: value)) is float


@pytest.mark.parametrize("value", [None, "1.0", [1.0], {}, float("nan"), float("inf"), 1j])
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

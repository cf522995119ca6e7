"""Evaluation: one record per data source, intervals, and failures that cannot raise a score."""

import pytest

from llds.evaluation import ALL, evaluate_by_source, wilson_interval
from llds.types import Action, Prompt, SamplingParams, Trajectory, Turn

SEARCH, INVALID = Action("tool", "search", "x"), Action("invalid")


def trajectory(*actions: Action, source: str = "nq", gold: str = "New Oslo", status: str = "answered") -> Trajectory:
    turns = [
        Turn([1], [0.0], "stop", action, observation_ids=[2] if number < len(actions) - 1 else [])
        for number, action in enumerate(actions)
    ]
    prompt = Prompt("p", "q", (gold,), data_source=source, prompt_ids=(1,))
    return Trajectory(prompt, "g", 0, SamplingParams(), turns=turns, status=status)  # type: ignore[arg-type]


def answer(text: str) -> Action:
    return Action("answer", "", text)


def test_every_number_by_hand() -> None:
    results = evaluate_by_source(
        [
            trajectory(SEARCH, answer("the New Oslo")),  # EM 1, F1 1, one search, 2 of 2 actions valid
            trajectory(SEARCH, SEARCH, answer("Oslo")),  # EM 0, F1 2 * 1 / (1 + 2), two searches, 3 of 3
            trajectory(INVALID, answer("Rome"), source="hotpot"),  # 0, 0, none, 1 of 2
            trajectory(SEARCH, source="hotpot", status="out_of_turns"),  # no answer; its search was not served
        ]
    )
    assert [result.name for result in results] == [ALL, "nq", "hotpot"]
    everything, nq, hotpot = results
    assert (everything.n, everything.exact_match, everything.searches) == (4, 1 / 4, 3 / 4)
    assert everything.f1 == pytest.approx((1 + 2 / 3) / 4)
    assert everything.valid_action_rate == 7 / 8
    assert (nq.n, nq.exact_match, nq.searches, nq.valid_action_rate) == (2, 1 / 2, 3 / 2, 1.0)
    assert (hotpot.exact_match, hotpot.f1, hotpot.failed) == (0.0, 0.0, 0)
    assert everything.exact_match_low < everything.exact_match < everything.exact_match_high


def test_a_failed_trajectory_counts_as_zero() -> None:
    results = evaluate_by_source([trajectory(answer("New Oslo")), trajectory(answer("New Oslo"), status="failed")])
    assert (results[0].n, results[0].exact_match, results[0].f1, results[0].failed) == (2, 0.5, 0.5, 1)


def test_nothing_evaluated_gives_no_records() -> None:
    assert evaluate_by_source([]) == []


def test_metrics_are_all_numbers() -> None:
    metrics = evaluate_by_source([trajectory(answer("Rome"))])[0].metrics()
    assert "name" not in metrics
    assert metrics["exact_match"] == 0.0
    assert all(isinstance(value, float) for value in metrics.values())


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),  # Newcombe 1998, table I and the usual examples
        (10, 10, 0.7225, 1.0),
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_intervals_are_the_published_ones(successes: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=1e-4)

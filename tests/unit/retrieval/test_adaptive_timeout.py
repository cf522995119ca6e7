"""How long to wait, by arithmetic written out."""

import pytest

from llds.retrieval.adaptive_timeout import AdaptiveTimeout


def after(answers: list[float], limit_s: float = 10.0) -> AdaptiveTimeout:
    timeout = AdaptiveTimeout(limit_s)
    for seconds in answers:
        timeout.record(seconds)
    return timeout


def test_before_any_answer_all_that_is_allowed_is_waited() -> None:
    assert [AdaptiveTimeout(10.0).seconds(times) for times in range(3)] == [10.0] * 3


@pytest.mark.parametrize(
    ("answers", "waits"),
    [
        ([0.01, 0.02], [1.0, 3.0, 9.0, 10.0]),  # at least a second, times 3 for each wait in vain, at most the limit
        ([0.5] * 4, [2.0, 6.0, 10.0, 10.0]),  # 4 x what is usual
        ([0.5, 0.01, 0.01, 0.01, 0.4], [1.6, 4.8, 10.0, 10.0]),  # the third of four quarters: 0.4
        ([3.0], [10.0, 10.0, 10.0, 10.0]),
    ],
)
def test_a_first_try_waits_a_few_usual_answers_and_more_after_waits_in_vain(
    answers: list[float], waits: list[float]
) -> None:
    assert [after(answers).seconds(times) for times in range(4)] == pytest.approx(waits)


def test_a_lost_answer_now_and_then_changes_nothing_and_many_do() -> None:
    assert after([0.01] * 14 + [1.0] * 2).seconds(0) == 1.0
    assert after([0.01] * 11 + [1.0] * 5).seconds(0) == 4.0


def test_a_server_that_turned_slow_gets_all_that_is_allowed_in_the_end_and_a_quick_one_little_again() -> None:
    timeout = after([0.01] * 16)
    for _ in range(20):
        timeout.record(timeout.seconds(0))  # every wait is in vain
    assert timeout.seconds(0) == 10.0
    for _ in range(16):
        timeout.record(0.01)
    assert timeout.seconds(0) == 1.0


def test_a_limit_below_a_second_is_kept() -> None:
    assert after([0.01], limit_s=0.5).seconds(0) == 0.5

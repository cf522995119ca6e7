"""Hindsight: what counts as a collapse, when it fell, and what as a cliff."""

import pytest

from llds.monitor.hindsight import outcome

RISE = [0.3, 0.4, 0.5]


def test_a_run_that_holds_is_healthy() -> None:
    assert outcome([*RISE, *[0.6, 0.5] * 20]).kind == "healthy"


def test_a_slow_fall_is_dated_where_it_crossed_80_percent_for_good() -> None:
    rewards = [0.5] * 20 + [0.5 - 0.01 * at for at in range(1, 41)]
    found = outcome(rewards)
    assert (found.kind, found.is_cliff) == ("collapsed", False)
    # 0.5 - 0.01 (at - 19): below 0.4 from 30 on, below 0.325 from 37 on, below 0.25 from 45 on
    assert (found.fall, found.lost, found.deadline) == (30, 37, 45)


def test_a_dip_before_does_not_date_the_fall() -> None:
    rewards = [0.5] * 15 + [0.33] * 9 + [0.5] * 20 + [0.1] * 20
    assert outcome(rewards).fall == pytest.approx(44, abs=4)


def test_a_fall_within_three_iterations_is_a_cliff() -> None:
    assert outcome([0.5] * 30 + [0.05] * 20).is_cliff


def test_a_partial_fall_is_neither() -> None:
    assert outcome([0.5] * 20 + [0.35] * 20).kind == "between"


def test_a_collapse_that_never_halves_may_be_seen_until_the_end() -> None:
    found = outcome([0.5] * 20 + [0.3] * 20)
    assert (found.kind, found.deadline) == ("collapsed", 39)

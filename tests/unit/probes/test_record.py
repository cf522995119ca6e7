"""What a probe says, from numbers that are written down."""

import math
from dataclasses import replace

import pytest

from llds.probes import Probe, ProbedAction, ProbedQuestion, ProbedTrajectory
from llds.probes.agreement import agreement

RIGHT = ProbedTrajectory(reward=1.0, advantage=1.0, tokens=4, change=-0.4, answer="x", turns=[])
WRONG = replace(RIGHT, reward=0.0, advantage=-0.5, change=-1.0)
FIRST = ProbedAction(trajectory=0, turn=0, place="first", tokens=2, text="a", change=-0.5, pulls=[0.2, -0.5, -0.1])
ANSWER = replace(FIRST, turn=1, place="answer", change=0.1, pulls=[0.3, 0.05, -0.1])
LOSING = ProbedQuestion("q1", "Who?", ["x"], 1.0, [RIGHT, WRONG, WRONG], [FIRST, ANSWER])
GAINING = replace(LOSING, trajectories=[replace(RIGHT, change=0.2), WRONG, WRONG], actions=[])


def test_a_question_is_the_mean_over_its_right_trajectories_per_token() -> None:
    assert LOSING.change_per_token == pytest.approx(-0.1)  # -0.4 nats on 4 tokens
    two = replace(LOSING, trajectories=[RIGHT, replace(RIGHT, change=0.8), WRONG])
    assert two.change_per_token == pytest.approx((-0.1 + 0.2) / 2)
    assert (LOSING.change_of("first"), LOSING.change_of("later")) == (-0.25, None)


def test_g_is_what_the_wrong_take_minus_what_the_right_give() -> None:
    assert FIRST.g == pytest.approx(0.4)
    assert LOSING.negative_part(FIRST) == pytest.approx(0.6)
    assert LOSING.positive_part(FIRST) == pytest.approx(0.2)
    assert LOSING.strongest_pull(FIRST) == (1, -0.5)
    assert LOSING.strongest_pull(ANSWER) == (2, -0.1)
    assert LOSING.strongest_pull(replace(FIRST, pulls=[-1.0, 0.0, 0.1])) is None  # the right one is no culprit


def test_more_than_half_of_the_questions_is_phase_iii() -> None:
    shares = []
    for questions in ([LOSING, GAINING], [LOSING, LOSING, GAINING], []):
        probe = Probe(3, 5, {}, questions)
        shares.append((probe.share_negative, probe.is_phase_iii))
    assert shares == [(0.5, False), (pytest.approx(2 / 3), True), (None, False)]
    probe = Probe(3, 5, {}, [LOSING, GAINING])
    assert probe.mean_change == pytest.approx((-0.1 + 0.05) / 2)
    assert (probe.share_negative_of("first"), probe.share_negative_of("answer")) == (1.0, 0.0)
    assert probe.metrics()["probe/share_negative"] == 0.5
    assert Probe(3, 5, {}, []).metrics() == {"probe/questions": 0.0}


def test_agreement_of_lines_and_of_orders() -> None:
    line = agreement([1.0, 2.0, 3.0, -4.0], [2.0, 4.0, 6.0, -8.0])
    assert line is not None
    assert (line.pairs, line.same_sign) == (4, 1.0)
    assert (line.pearson, line.spearman) == (pytest.approx(1), pytest.approx(1))
    order = agreement([1.0, 2.0, 3.0], [-1.0, -10.0, -100.0])
    assert order is not None
    assert order.spearman == pytest.approx(-1) != order.pearson
    assert order.same_sign == 0.0
    # ranks 0.5, 0.5, 2 against 0, 1, 2: covariance 1.5 of variances 1.5 and 2
    ties = agreement([1.0, 1.0, 3.0], [1.0, 2.0, 3.0])
    assert ties is not None
    assert ties.spearman == pytest.approx(1.5 / math.sqrt(3))
    assert agreement([1.0, 2.0], [1.0, 2.0]) is None
    assert agreement([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None

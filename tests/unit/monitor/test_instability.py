"""The alarm before the reward falls, and the larger fall that it takes while the policy is calm."""

import random
from collections.abc import Callable, Sequence

import pytest

from llds.monitor import CollapseDetector, Diagnosis, diagnose
from llds.monitor.detector import SIGNALS_READ
from llds.monitor.instability import SIGNS, Instability

Row = dict[str, float]
Make = Callable[..., list[Row]]

AT_REST = {
    "policy/ratio_p99": 1.15,
    "policy/ratio_max": 3.0,
    "llds/lld_magnitude": 0.003,
    "policy/probe_log_likelihood": -0.1,
}
STRONG = {
    "policy/ratio_p99": 1.7,
    "policy/ratio_max": 10.0,
    "llds/lld_magnitude": 0.04,
    "policy/probe_log_likelihood": -0.4,
}
START = 40


def run(healthy: Make, strong: Sequence[str], iterations: int = 90) -> list[Row]:
    """A healthy run of which some signs are strong from `START` on; its reward goes on rising."""
    rows, noise = healthy(iterations), random.Random(1)
    for at, row in enumerate(rows):
        row |= {
            name: (STRONG if at >= START and name in strong else AT_REST)[name] * noise.uniform(0.9, 1.1)
            for name in AT_REST
        }
    return rows


def first_alarm(found: Sequence[Diagnosis]) -> Diagnosis | None:
    return next((one for one in found if one.level == "alarm"), None)


@pytest.mark.parametrize("spared", AT_REST)
def test_three_of_the_four_signs_are_an_alarm_while_the_reward_still_rises(healthy: Make, spared: str) -> None:
    alarm = first_alarm(diagnose(enumerate(run(healthy, [name for name in AT_REST if name != spared]))))
    assert alarm is not None
    assert START + 3 <= alarm.iteration <= START + 20
    assert (alarm.phase, alarm.cause) == ("acceleration", "lld_spiral")
    assert alarm.reward_lost < 0.1
    assert any("for a while" in words or "lost" in words for words in alarm.evidence)
    assert "phase III" in alarm.message


@pytest.mark.parametrize("pair", [("policy/ratio_p99", "policy/ratio_max"), ("llds/lld_magnitude", "policy/ratio_p99")])
def test_two_are_none(healthy: Make, pair: Sequence[str]) -> None:
    assert first_alarm(diagnose(enumerate(run(healthy, pair)))) is None


@pytest.mark.parametrize("missing", AT_REST)
def test_nor_are_three_where_the_fourth_is_not_logged(healthy: Make, missing: str) -> None:
    rows = run(healthy, list(AT_REST))
    for row in rows:
        del row[missing]
    assert first_alarm(diagnose(enumerate(rows))) is None


def test_a_spike_of_all_four_is_none(healthy: Make) -> None:
    rows = run(healthy, [])
    for row in rows[START : START + 2]:
        row |= STRONG
    assert first_alarm(diagnose(enumerate(rows))) is None


@pytest.mark.parametrize(
    ("left", "strong", "is_alarm"),
    [
        (0.8, [], False),
        (0.8, ["policy/probe_log_likelihood"], False),
        (0.7, [], True),
        (0.8, ["policy/probe_log_likelihood", "policy/ratio_max"], True),
    ],
)
def test_votes_count_only_while_the_policy_is_not_calm(
    healthy: Make, left: float, strong: list[str], is_alarm: bool
) -> None:
    rows = run(healthy, strong)
    for row in rows[START + 15 :]:
        row["reward/mean"] *= left
        row["policy/entropy"] *= 1.4
        row["train/grad_norm"] *= 5
    assert (first_alarm(diagnose(enumerate(rows))) is not None) is is_alarm


def test_no_fall_of_likelihood_counts_as_the_least_and_not_as_missing(healthy: Make) -> None:
    rows = run(healthy, [])
    for row in rows[10:]:
        row["llds/lld_magnitude"] = 0.0
    detector = CollapseDetector()
    for at, row in enumerate(rows):
        detector.update(at, row)
    assert detector.instability.is_calm


def test_states_must_last_and_end_at_once() -> None:
    state, seen = Instability(), []
    for strengths in ([1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]):
        state.update(strengths)
        seen.append((state.is_unstable, state.is_calm))
    assert seen == [(False, False)] * 4 + [(True, False), (False, False)]
    for _ in range(2):
        state.update([0.1, 0.9, 0.0, 0.0])
    assert state.is_calm
    state.update([0.3, 0.9, 0.0, 0.0])
    assert not state.is_calm
    state.update([0.0, 0.0, 0.0])
    assert not state.is_calm


def test_recordings_keep_what_it_reads() -> None:
    assert {name for check in SIGNS for name in check.signals} <= set(SIGNALS_READ)

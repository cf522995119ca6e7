"""The alarm before the reward falls, and the larger fall that it takes while the policy is calm."""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from llds.monitor import CollapseDetector, Diagnosis, diagnose
from llds.monitor.symptoms.instability import SIGNS, Instability
from tools.study import Study

Row = dict[str, float]
Make = Callable[..., list[Row]]

RECORDINGS = Path(__file__).parents[2] / "recordings"
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
    assert alarm.reward is not None
    assert alarm.reward.errors < 2
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
    ("strong", "is_alarm"),
    [
        ([], False),
        (["policy/probe_log_likelihood"], False),
        (["policy/probe_log_likelihood", "policy/ratio_max"], True),
    ],
)
def test_votes_count_only_while_the_policy_is_not_calm(healthy: Make, strong: list[str], is_alarm: bool) -> None:
    rows, noise = run(healthy, strong, START + 30), random.Random(3)
    for at, row in enumerate(rows):
        row["reward/mean"] += noise.gauss(0, 0.12) - 0.26 * (at >= START + 18)
        if at >= START + 12:
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
        state.update(strengths, is_new=True)
        seen.append((state.is_unstable, state.is_calm))
    assert seen == [(False, False)] * 4 + [(True, False), (False, False)]
    for _ in range(2):
        state.update([0.1, 0.9, 0.0, 0.0], is_new=True)
    assert state.is_calm
    state.update([0.3, 0.9, 0.0, 0.0], is_new=True)
    assert not state.is_calm


def test_rows_without_the_signs_are_neither_here_nor_there() -> None:
    state = Instability(unstable=2)
    state.update([1, 1, 1, 1], is_new=False)
    assert state == Instability(unstable=2)
    state.update([1, 1, 1], is_new=False)
    assert state == Instability()


def test_one_row_is_not_counted_again_in_rows_that_have_none(healthy: Make) -> None:
    rows = run(healthy, list(AT_REST))
    first = first_alarm(diagnose(enumerate(rows)))
    assert first is not None
    for row in rows[first.iteration - 1 :]:  # one before the last that it takes
        for name in AT_REST:
            del row[name]
    assert first_alarm(diagnose(enumerate(rows))) is None


def test_with_one_update_per_iteration_ratios_say_nothing(healthy: Make) -> None:
    """All are 1 then, which is not calm."""
    rows = run(healthy, ["llds/lld_magnitude", "policy/probe_log_likelihood"])
    for row in rows:
        row |= {"policy/ratio_p99": 1.0, "policy/ratio_max": 1.0}
    detector = CollapseDetector()
    for at, row in enumerate(rows):
        detector.update(at, row)
    assert detector.instability == Instability()


def test_a_resume_in_the_middle_changes_nothing(healthy: Make) -> None:
    rows = run(healthy, list(AT_REST))
    whole = diagnose(enumerate(rows))
    first = first_alarm(whole)
    assert first is not None
    for stop in (first.iteration - 2, first.iteration - 1, first.iteration, first.iteration + 5):
        before, after = CollapseDetector(), CollapseDetector()
        said = [before.update(at, row) for at, row in enumerate(rows[:stop])]
        after.load_state_dict(json.loads(json.dumps(before.state_dict())))
        said += [after.update(stop + at, row) for at, row in enumerate(rows[stop:])]
        assert said == whole


def test_what_breaks_after_the_alarm_is_not_its_cause(healthy: Make) -> None:
    rows = run(healthy, list(AT_REST))
    alarm = first_alarm(diagnose(enumerate(rows)))
    assert alarm is not None
    for row in rows[alarm.iteration + 5 :]:
        row |= {"rollout/answered": 0.2, "rollout/valid_action_rate": 0.3}
    assert {one.cause for one in diagnose(enumerate(rows)) if one.level == "alarm"} == {"lld_spiral"}


def test_the_recordings_of_the_prototypes_have_the_signs() -> None:
    runs = Study(RECORDINGS / "prototype").read()
    assert len(runs) == 96
    for run, cells in runs.items():
        assert {name for check in SIGNS for name in check.signals} <= {name for row in cells for name in row}, run

"""The detector: its levels and phases, the same online, offline and after a resume, at any scale, with gaps."""

import json
import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from llds.monitor import CollapseDetector, Diagnosis, diagnose, summarize
from llds.monitor.memory.numerics import WATCHED

Row = dict[str, float]
Make = Callable[..., list[Row]]


def levels(rows: list[Row]) -> list[str]:
    return [one.level for one in diagnose(enumerate(rows))]


@pytest.mark.parametrize("seed", range(5))
def test_a_healthy_run_is_quiet(healthy: Make, seed: int) -> None:
    assert set(levels(healthy(200, seed))) == {"none"}


def test_a_spiral_goes_through_the_phases_of_the_paper_in_order(spiral: Make) -> None:
    found = diagnose(enumerate(spiral()))
    phases = list(dict.fromkeys(one.phase for one in found if one.phase != "stagnation"))
    assert phases == ["healthy", "decay", "acceleration", "collapsed"]
    at = {phase: next(one.iteration for one in found if one.phase == phase) for phase in phases}
    # decay begins at 40, gradient and entropy rise from 50, reward falls from 54 on and has halved at 61
    assert 40 < at["decay"] < 50
    assert 54 < at["acceleration"] <= 60
    assert 60 <= at["collapsed"] <= 65


def test_a_note_comes_before_the_alarm_and_the_alarm_names_the_spiral(spiral: Make) -> None:
    found = diagnose(enumerate(spiral()))
    note = next(one for one in found if one.level == "note")
    alarm = next(one for one in found if one.level == "alarm")
    assert note.iteration < 54 < alarm.iteration
    assert (note.cause, note.advice, alarm.cause) == (None, "", "lld_spiral")
    assert alarm.since == alarm.iteration
    assert any("lose likelihood" in words for words in alarm.evidence)
    assert "learning rate" in alarm.advice
    assert found[-1].since == alarm.iteration


def test_confidence_is_the_share_of_signals_that_agree(spiral: Make) -> None:
    found = diagnose(enumerate(spiral()))[-1]
    # of entropy, ratio, gradient, first actions, falling actions, lasting ratios, reward and drift: all but the ratios
    # and first actions
    assert found.confidence == pytest.approx(5 / 8)
    votes = {"entropy_surges", "gradient_surges", "correct_actions_fall"}
    assert votes < {one.name for one in found.symptoms}


def test_decay_of_likelihood_alone_is_not_even_a_warning(healthy: Make) -> None:
    rows = healthy()
    for age, row in enumerate(rows[30:]):
        row["llds/displacement_correct"] = -0.01
        row["policy/log_likelihood_correct"] -= 0.01 * age
        row["policy/log_likelihood_incorrect"] -= 0.01 * age
    found = diagnose(enumerate(rows))
    assert found[-1].phase == "decay"
    assert {one.level for one in found} == {"none"}
    summary = summarize(found)
    assert [one.phase for one in summary.phases] == [summary.now.phase] == ["healthy"]  # in hindsight


@pytest.mark.parametrize("signal", ["policy/ratio_p99", "train/grad_norm"])
def test_a_spike_alone_is_no_alarm(healthy: Make, signal: str) -> None:
    rows = healthy()
    rows[40][signal] *= 100
    assert "alarm" not in levels(rows)


def test_a_fall_of_the_reward_alone_is_an_alarm_of_unknown_cause(healthy: Make) -> None:
    rows = healthy()
    for row in rows[50:]:
        row["reward/mean"] *= 0.4
    found = diagnose(enumerate(rows))[55]
    assert (found.level, found.cause, found.confidence) == ("alarm", "unknown", pytest.approx(1 / 8))


@pytest.mark.parametrize("seed", [0, 2, 3])
def test_votes_lower_the_fall_that_an_alarm_needs(healthy: Make, seed: int) -> None:
    """Of a reward so noisy that a fall of all that was gained is hardly seen in it."""
    noise = random.Random(seed)
    calm, unstable = healthy(62, seed), healthy(62, seed)
    for at, (one, other) in enumerate(zip(calm, unstable, strict=True)):
        scatter = noise.gauss(0, 0.14) - 0.22 * (at >= 50)
        one["reward/mean"] += scatter
        other["reward/mean"] += scatter
    for row in unstable[45:]:
        row["policy/entropy"] *= 1.4
        row["train/grad_norm"] *= 5
    assert "alarm" not in levels(calm)
    assert "alarm" in levels(unstable)


def test_a_level_ends_when_the_run_recovers(healthy: Make) -> None:
    rows = healthy(120)
    for row in rows[40:60]:
        row["reward/mean"] *= 0.2
    found = summarize(diagnose(enumerate(rows)))
    assert found.now.level == "none"
    assert len(found.alarms) == 1
    start, end = found.alarms[0]
    assert 40 < start <= 44
    assert 65 < end < 85


def test_where_a_run_went_back_what_came_after_is_forgotten(healthy: Make, spiral: Make) -> None:
    before, after = spiral(iterations=62), healthy(120)[30:]
    before[-1]["collapse/back_to"] = 30.0
    found = diagnose(enumerate([*before, *after]))
    assert found[61].level == "alarm"
    assert {one.level for one in found[62:]} == {"none"}
    online = CollapseDetector()
    for at, row in enumerate(before[:31]):
        online.update(at, row)
    assert [online.update(62 + at, row) for at, row in enumerate(after)] == found[62:]


def test_update_by_update_and_the_whole_table_agree_also_after_a_resume(spiral: Make) -> None:
    rows = spiral()
    whole = diagnose(enumerate(rows))
    for stop in (3, 5, 30, 47, 58, 70):
        first = CollapseDetector()
        online = [first.update(at, row) for at, row in enumerate(rows[:stop])]
        second = CollapseDetector()
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert second.level == first.level
        online += [second.update(stop + at, row) for at, row in enumerate(rows[stop:])]
        assert online == whole


@pytest.mark.slow
def test_the_state_stays_small(healthy: Make) -> None:
    detector = CollapseDetector()
    sizes = []
    for at, row in enumerate(healthy(400)):
        detector.update(at, row)
        sizes.append(len(json.dumps(detector.state_dict())))
    assert max(sizes[50:]) < 1.1 * sizes[50]
    assert sizes[-1] < 32_000


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_units_do_not_matter(spiral: Make, factor: float) -> None:
    scaled = spiral()
    for row in scaled:
        for name in ("reward/mean", "policy/entropy", "train/grad_norm", "train/learning_rate"):
            row[name] *= factor
    strip = [(one.level, one.phase, one.cause, one.since) for one in diagnose(enumerate(scaled))]
    assert strip == [(one.level, one.phase, one.cause, one.since) for one in diagnose(enumerate(spiral()))]


def test_gradients_of_zero_are_no_baseline(healthy: Make) -> None:
    """A hard task whose first groups are all wrong has no gradient; that it gets one later is no surge."""
    rows = healthy(60)
    for row in rows[:7]:
        row["train/grad_norm"] = 0.0
    assert set(levels(rows)) == {"none"}


@pytest.mark.parametrize("warmup", [3, 5])
def test_a_linear_warm_up_is_no_jump_of_the_learning_rate(healthy: Make, warmup: int) -> None:
    rows = healthy(60)
    for at, row in enumerate(rows):
        row["train/learning_rate"] = 1e-6 * min(at, 20) / 20
    assert {one.level for one in diagnose(enumerate(rows), warmup=warmup)} == {"none"}


def test_iterations_may_be_numbered_in_strides(spiral: Make) -> None:
    dense = diagnose(enumerate(spiral()))
    sparse = diagnose((10 * at, row) for at, row in enumerate(spiral()))
    assert [one.level for one in sparse] == [one.level for one in dense]
    assert [one.since for one in sparse] == [None if one.since is None else 10 * one.since for one in dense]


def test_missing_signals_and_nan_degrade_the_confidence_not_the_alarm(spiral: Make) -> None:
    def worsen(row: Row) -> Row:
        return {"reward/mean": row["reward/mean"], "policy/entropy": row["policy/entropy"], "x": 1.0}

    found = diagnose(enumerate(worsen(row) for row in spiral()))
    assert found[-1].level == "alarm"
    assert found[-1].phase == "collapsed"
    holes = spiral()
    noise = random.Random(0)
    for row in holes:
        for name in list(row):
            chance = noise.random()
            if chance < 0.3 and name not in WATCHED:
                row[name] = math.nan
            elif chance < 0.4:
                del row[name]
    found = diagnose(enumerate(holes))
    assert next(one.iteration for one in found if one.level == "alarm") <= 64
    assert found[-1].cause == "lld_spiral"


@pytest.mark.parametrize(
    "rows", [[], [{}], [{}] * 20, [{"llds/lld_rate": math.nan}] * 20, [{"policy/entropy": 0.0}] * 20]
)
def test_tables_with_nothing_in_them_are_no_trouble(rows: list[Row]) -> None:
    assert all(one == Diagnosis(one.iteration, one.phase) for one in diagnose(enumerate(rows)))


def test_a_signal_that_is_no_longer_logged_stops_to_vote(healthy: Make) -> None:
    rows = healthy()
    for row in rows[30:34]:
        row["llds/lld_rate"] = 1.0
        row["policy/entropy"] *= 2
    for row in rows[34:]:
        del row["llds/lld_rate"]
        del row["policy/entropy"]
    found = levels(rows)
    assert found[35] == "note"
    assert found[-1] == "none"


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.05, 0.1, 0.15])
def test_long_noisy_runs_raise_no_alarm(spread: float) -> None:
    """4 x 1,000 iterations whose reward scatters by up to 15% of its mean, as with small batches."""
    alarms = 0
    for seed in range(4):
        noise = random.Random(seed)
        rows = [
            {
                "reward/mean": max(0.0, 0.5 * (1 + spread * noise.gauss(0, 1))),
                "policy/entropy": 0.5 * math.exp(0.05 * noise.gauss(0, 1)),
                "train/grad_norm": math.exp(0.3 * noise.gauss(0, 1)),
            }
            for _ in range(1000)
        ]
        alarms += sum(level == "alarm" for level in levels(rows))
    assert alarms == 0


@pytest.mark.parametrize("names", [["train/loss", "train/grad_norm"], ["reward/mean"]])
def test_values_that_are_no_numbers_are_an_alarm_and_come_first_of_all(spiral: Make, names: list[str]) -> None:
    rows = spiral()
    for row in rows[20:36:2]:
        row |= dict.fromkeys(names, math.nan)
    found = diagnose(enumerate(rows))
    first = next(one for one in found if one.level == "alarm")
    assert (first.iteration, first.cause) == (24, "not_finite")
    assert all(name in first.evidence[0] for name in names)
    assert "3 of the last 10 rows" in first.evidence[0]


def test_a_single_step_that_is_not_finite_is_a_note_also_in_the_warm_up(healthy: Make) -> None:
    rows = healthy(40)
    rows[20]["train/grad_norm"] = math.inf
    found = levels(rows)
    assert found[20] == "note"
    assert set(found) == {"none", "note"}
    for row in rows[:3]:
        row["train/loss"] = math.nan
    assert levels(rows)[2] == "alarm"


def test_a_fall_of_a_negative_reward_is_seen() -> None:
    noise = random.Random(0)
    rows: list[dict[str, Any]] = [{"reward/mean": -1.0 + min(at, 30) / 20 + noise.gauss(0, 0.03)} for at in range(60)]
    rows += [{"reward/mean": -0.9 + noise.gauss(0, 0.03)} for _ in range(15)]
    found = diagnose(enumerate(rows))
    assert found[58].level == "none"
    assert (found[-1].level, found[-1].phase) == ("alarm", "collapsed")


def test_a_collapsed_run_has_not_recovered_before_half_of_what_it_had_gained_is_back(healthy: Make) -> None:
    rows = healthy(140)
    for row in rows[40:60]:
        row["reward/mean"] *= 0.2
    for row in rows[60:100]:
        row["reward/mean"] *= 0.57
    for row in rows[100:]:
        row["reward/mean"] *= 0.9
    phases = [one.phase for one in diagnose(enumerate(rows))]
    assert set(phases[50:100]) == {"collapsed"}
    assert phases[-1] != "collapsed"


def test_the_summary_names_the_cause_of_the_present_alarm_not_of_an_older_one(healthy: Make) -> None:
    rows = healthy(150)
    for row in rows[30:70]:
        row["rollout/failed"] = 0.4
    for row in rows[125:]:
        row |= {"reward/mean": 0.0, "reward/informative_groups": 0.0}
    found = summarize(diagnose(enumerate(rows)))
    assert [found.now.level, found.now.cause] == ["alarm", "broken_reward"]
    assert len(found.alarms) == 2
    assert found.alarms[0][1] < 90 < found.alarms[1][0]
    assert "reward" in found.now.evidence[0]


def in_steps(rows: list[Row], steps: int) -> list[tuple[int, Row]]:
    """Each iteration as so many rows, the reward in the first, as TRL logs several optimizer steps per generation."""
    return [
        (at * steps + step, {name: value for name, value in row.items() if step == 0 or not name.startswith("reward/")})
        for at, row in enumerate(rows)
        for step in range(steps)
    ]


@pytest.mark.parametrize("steps", [2, 4])
def test_several_rows_of_an_iteration_are_judged_as_one(spiral: Make, healthy: Make, steps: int) -> None:
    assert {one.level for one in diagnose(in_steps(healthy(200), steps))} == {"none"}
    whole, split = diagnose(enumerate(spiral())), diagnose(in_steps(spiral(), steps))
    first, first_of_split = (next(one for one in said if one.level == "alarm") for said in (whole, split))
    assert abs(first_of_split.iteration - first.iteration * steps) <= 2 * steps
    assert (first_of_split.cause, split[-1].phase) == (first.cause, whole[-1].phase)
    assert [one.iteration for one in split] == list(range(80 * steps))


def test_steps_that_are_not_finite_do_not_wait_for_the_next_reward(healthy: Make) -> None:
    rows = in_steps(healthy(40), 8)
    for _, row in rows[201:]:
        row["train/grad_norm"] = math.nan
    assert next(one.iteration for one in diagnose(rows) if one.level == "alarm") == 203


def test_a_row_that_lost_its_reward_is_an_iteration_where_each_has_one(healthy: Make) -> None:
    rows = healthy(40)
    for row in rows[30:]:
        del row["reward/mean"]
        row["rollout/failed"] = 1.0
    assert diagnose(enumerate(rows))[35].cause == "retriever_outage"

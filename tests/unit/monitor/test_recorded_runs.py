"""The figures that the documentation states, and the causes that it promises, from recorded trainings."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llds.monitor import diagnose
from llds.monitor.causes import NAMES
from llds.monitor.hindsight import outcome
from llds.monitor.sources import metrics_of
from tools.study import CAUSE, Cells, Study

ROOT = Path(__file__).parents[3]
RECORDINGS = ROOT / "tests" / "recordings"
WIDE = ROOT / "tools" / "experiments" / "records" / "wide"
FURTHER = {run: rows for run, rows in Study(WIDE.parent / "further").read().items() if run.startswith("small-")}
MISSED = "late_coin-seed1"  # a reward that turns into a coin; a spiral is named
RECORDED = Study(RECORDINGS / "faults").read()
HEALTHY = {run: rows for run, rows in RECORDED.items() if rows[0][CAUSE] == "healthy"}
FAULTS = {run: rows for run, rows in RECORDED.items() if run not in HEALTHY and run != MISSED}
SPIRALS = [f"small-lr0.001-lambda0-seed{seed}" for seed in (100, 102)]


def evaluate(*args: str) -> dict[str, Any]:
    """What the script says."""
    command = [sys.executable, "tools/evaluate_detector.py", "--json", *args]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.fixture(scope="module")
def held_out() -> dict[str, Any]:
    return evaluate("tests/recordings/prototype")


@pytest.fixture(scope="module")
def small() -> dict[str, Any]:
    return evaluate("--half", "all", "--recorded-only", "tests/recordings/small")


@pytest.fixture(scope="module")
def wide() -> dict[str, Any]:
    return evaluate("--half", "all", "--recorded-only", "--match", "seed5(?!0[0-5])", str(WIDE))


def test_the_quickstart_is_silent_with_every_recorded_seed() -> None:
    recorded = Study(WIDE.parent / "quickstart").read()
    shipped = {run: rows for run, rows in recorded.items() if "-lr0.0002-" in run}  # 10 seeds, with and without LLDS
    assert len(shipped) == 20
    for run, rows in shipped.items():
        said = diagnose(metrics_of(rows, run).rows)
        assert {one.level for one in said} <= {"none", "note"}, run
        assert {one.level for one in said[:5]} == {"none"}, run


def test_the_quickstart_as_it_ships_ends_in_silence_with_three_seeds() -> None:
    """30 iterations of 24 prompts x 8; what is no more than a note is shown to those who ask for it."""
    recorded = Study(RECORDINGS / "quickstart").read()
    assert {run: len(rows) for run, rows in recorded.items()} == {"seed0": 30, "seed1": 30, "seed2": 30}
    for run, rows in recorded.items():
        said = diagnose(metrics_of(rows, run).rows)
        assert {one.level for one in said} <= {"none", "note"}, run
        assert {one.cause for one in said} == {None}, run


def test_a_collapse_within_the_warm_up_is_not_the_retrievers() -> None:
    """At three times the rate of a run that holds: from the fifth row on nothing is right, answered or found."""
    rows = Study(WIDE.parent / "unsampled").read()["small-lr0.0015-lambda0-unsampled-seed101"]
    said = diagnose(metrics_of(rows, "unsampled").rows)
    assert {one.cause for one in said if one.level in ("warning", "alarm")} == {"lld_spiral"}


@pytest.mark.slow
def test_collapses_are_seen(held_out: dict[str, Any]) -> None:
    figures = held_out["figures"]
    assert (figures["runs"], figures["collapsed"], figures["healthy"]) == (54, 39, 11)
    assert figures["recall"] >= 0.95
    assert figures["recall, foreseeable"] == 1.0
    assert figures["  alarm before reward is 35% under its peak"] >= 0.85
    assert figures["  median lead of the note to 20% under"] >= 0.2


@pytest.mark.slow
def test_healthy_runs_are_left_alone(held_out: dict[str, Any]) -> None:
    assert held_out["figures"]["  iterations"] == 1193
    assert held_out["figures"]["  false alarms"] <= 2
    assert held_out["figures"]["  warnings per 2,000 iterations"] < 9  # one that comes and goes counts once


@pytest.mark.slow
def test_causes_that_are_known_are_named(held_out: dict[str, Any]) -> None:
    assert held_out["causes of recorded runs"] == {
        "broken_reward": {"broken_reward": 8},
        "sampler_mismatch": {"sampler_mismatch": 1},
    }
    assert held_out["right cause, injected"] >= 0.89


@pytest.mark.slow
def test_on_later_trainings_of_llds_it_is_as_good_as_the_page_says(small: dict[str, Any]) -> None:
    """40 trajectories an iteration, whose mean scatters by a fifth: the aims are missed, and no worse than stated."""
    figures = small["figures"]
    assert (figures["runs"], figures["collapsed"], figures["healthy"]) == (67, 33, 24)
    assert figures["recall"] >= 0.87
    assert figures["recall, foreseeable"] >= 0.86
    assert figures["  false alarms"] <= 1


@pytest.mark.slow
def test_slow_collapses_are_foreseen(wide: dict[str, Any]) -> None:
    """160 trajectories an iteration; trainings that were made after the settings."""
    figures = wide["figures"]
    assert figures["recall"] >= 0.95
    assert figures["  median lead of the alarm to 20% under"] >= 0.2
    assert figures["  false alarms"] == 0


@pytest.mark.parametrize("cells", FURTHER.values(), ids=FURTHER)
def test_what_looked_like_a_false_alarm_was_an_early_one(cells: list[Cells]) -> None:
    rows = [row for _, row in metrics_of(cells, "further").rows]
    assert outcome([row["reward/mean"] for row in rows[:32]]).kind == "healthy"
    assert outcome([row["reward/mean"] for row in rows]).kind == "collapsed"
    assert "alarm" in {one.level for one in diagnose(enumerate(rows))}


@pytest.mark.parametrize("cells", FAULTS.values(), ids=FAULTS)
def test_a_training_with_a_fault_yields_its_name(cells: list[Cells]) -> None:
    said = diagnose(metrics_of(cells, "faults").rows)
    level = "alarm" if any(one.level == "alarm" for one in said) else "warning"
    causes = Counter(one.cause for one in said if one.level == level)
    assert causes.most_common(1)[0][0] == cells[0][CAUSE]
    before = {one.level for one in said[:5]}
    assert before == {"none"}


def test_a_healthy_run_of_a_study_has_no_cause() -> None:
    result = evaluate("--half", "all", "--recorded-only", "--match", "^none-", "tests/recordings/faults.csv.xz")
    assert result["figures"]["runs"] == len(HEALTHY) == 2
    assert result["causes of recorded runs"] == {}


@pytest.mark.parametrize("name", SPIRALS)
def test_a_training_that_collapses_by_itself_is_a_spiral(name: str) -> None:
    """Twice the learning rate at which none of the seeds collapses, and no LLDS."""
    said = diagnose(metrics_of(Study(RECORDINGS / "small").read()[name], name).rows)
    assert {one.cause for one in said if one.level == "alarm"} == {"lld_spiral"}


def test_every_cause_has_a_recorded_training() -> None:
    assert {cells[0][CAUSE] for cells in FAULTS.values()} == set(NAMES) - {
        "unknown",
        "lld_spiral",
        "not_finite",
        "length_explosion",
    }


@pytest.mark.parametrize("cells", HEALTHY.values(), ids=HEALTHY)
def test_a_training_without_a_fault_has_no_alarm(cells: list[Cells]) -> None:
    assert "alarm" not in {one.level for one in diagnose(metrics_of(cells, "healthy").rows)}

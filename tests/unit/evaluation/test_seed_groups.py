"""Runs that differ in their seeds alone: what belongs together, what is said of it, and how it is written."""

import csv
import io
from typing import Any

import pytest

from llds.evaluation import SeededRun, SeedMean, group_by_seed, missing_figures, seed_notes, seed_table
from llds.evaluation.seed_groups import student_t
from llds.evaluation.settings import run_settings


def config(seed: int | dict[str, int] = 0, root: str = "/runs/x", **model: Any) -> dict[str, Any]:
    seeds = seed if isinstance(seed, dict) else dict.fromkeys(("model", "data", "rollout"), seed)
    penalty = {"class_path": "l.P", "init_args": {"c": 0.2}}
    return {
        "seed_everything": seeds["model"],
        "model": {"init_args": {"seed": seeds["model"], "llds_penalty": penalty} | model},
        "data": {"init_args": {"seed": seeds["data"]}},
        "rollout": {"seed": seeds["rollout"]},
        "trainer": {"default_root_dir": root, "logger": [{"init_args": {"name": root}}], "log": f"{root}/log"},
    }  # fmt: skip


def runs(
    *configs: dict[str, Any], results: str = "abcdefgh", conditions: list[dict[str, Any]] | None = None
) -> list[SeededRun]:
    conditions = conditions or [{}] * len(configs)
    return [
        SeededRun(f"r{number}", run_settings(one), condition, result)
        for number, (one, result, condition) in enumerate(zip(configs, results, conditions, strict=False))
    ]


def test_runs_of_other_seeds_and_folders_are_one_experiment_and_of_other_settings_are_not() -> None:
    given = runs(config(0, "/runs/a"), config(1, "/runs/b", lr=2), config(1, "/runs/c"), config(0, "/runs/d", lr=2))
    groups = group_by_seed(given)
    assert [group.members for group in groups] == [[0, 2], [1, 3]]
    assert [group.settings for group in groups] == [{"model.lr": "-"}, {"model.lr": "2"}]
    assert seed_notes(groups, given) == []


def test_a_part_that_one_experiment_leaves_out_is_one_column() -> None:
    other = config(0)
    other["model"]["init_args"]["llds_penalty"]["init_args"]["c"] = 1.0
    groups = group_by_seed(runs(config(0), config(0, llds_penalty=None), other))
    assert [group.settings for group in groups] == [
        {"model.llds_penalty": "P", "llds_penalty.c": "0.2"},
        {"model.llds_penalty": "none", "llds_penalty.c": "-"},
        {"model.llds_penalty": "P", "llds_penalty.c": "1.0"},
    ]


def test_the_seeds_that_took_effect_are_told() -> None:
    assert run_settings(config(3)).seed == "3"
    assert run_settings(config({"model": 1, "data": 0, "rollout": 0})).seed == "model 1, data 0, rollout 0"
    assert run_settings({"seed_everything": 4}).seed == "4"
    assert run_settings({}).seed == "unknown"


def test_the_same_result_counts_once_and_the_same_seed_with_another_result_is_said() -> None:
    given = runs(config(0), config(1), config(2), config(2), results="aabc")
    groups = group_by_seed(given)
    assert (groups[0].members, groups[0].repeats) == ([0, 2, 3], [1])
    first, second = seed_notes(groups, given)
    assert first == "r1 (seed 1) came to the very result of r0: it counts once."
    assert second.startswith("r2, r3 have the same seed (2) and other results")


def test_runs_that_were_measured_otherwise_are_not_averaged_and_that_is_said() -> None:
    given = runs(config(0), config(1), conditions=[{"data.limit": 80}, {"data.limit": 40}])
    groups = group_by_seed(given)
    assert [group.settings for group in groups] == [{"data.limit": "80"}, {"data.limit": "40"}]
    assert seed_notes(groups, given) == [
        "r1 was trained like r0, but not measured like it (data.limit): they are not averaged."
    ]


def test_nobody_knows_whether_runs_without_a_configuration_belong_together() -> None:
    groups = group_by_seed(runs({}, {}, config(0)))
    assert [group.members for group in groups] == [[0], [1], [2]]


def test_the_interval_is_students() -> None:
    mean = SeedMean((80.0, 82.0, 87.0), 3)
    # s = sqrt((9 + 1 + 16) / 2) = 3.606; 4.303 * 3.606 / sqrt(3) = 8.96
    assert mean.mean == 83.0
    assert mean.half_width == pytest.approx(8.957, abs=1e-3)
    assert SeedMean((1.0,), 1).half_width is None
    assert [student_t(df) for df in (11, 30, 100)] == pytest.approx([2.201, 2.042, 1.984], abs=1e-3)


def test_a_table_is_written_as_csv_markdown_and_latex_and_what_is_missing_is_said() -> None:
    given = runs(config(0), config(1), config(0, name="a|b_c & 5%"))
    groups = group_by_seed(given)
    figures = [{"NQ": 40.0, "x_y": 1.0}, {"NQ": 44.0}, {"x_y": 2.0}]
    table = seed_table(groups, given, figures, {"NQ": 1, "x_y": 1}, "Percent.")
    rows = list(csv.DictReader(io.StringIO(table.text("csv"))))
    assert [row["model.name"] for row in rows] == ["-", "-", "a|b_c & 5%", "a|b_c & 5%"]
    assert rows[0] | {"model.name": ""} == {
        "model.name": "", "seeds": "0, 1", "figure": "NQ", "runs": "2", "of_runs": "2", "mean": "42",
        "low": "16.588", "high": "67.412", "standard_deviation": "2.828427125", "values": "40 44",
    }  # fmt: skip
    alone = seed_table(group_by_seed(given[:2]), given[:2], figures[:2], {"NQ": 1}, "Percent.")  # no setting differs
    header = alone.text("csv").splitlines()[0].split(",")
    assert header[:4] == ["experiment", "seeds", "figure", "runs"]
    assert len(set(header)) == len(header)
    assert "| a\\|b_c & 5% | 0 | - | 2.0 |" in table.text("md")
    latex = table.text("latex")
    assert r"- & 0, 1 & $42.0 \pm 25.4$ & $1.0$ \\" in latex
    assert r"a|b\_c \& 5\% & 0 & -- & $2.0$ \\" in latex
    assert missing_figures(table, groups, given) == [
        "x_y is the mean of 1 of 2 runs (r0, r1): the others have no such figure.",
        "NQ is the mean of 0 of 1 runs (r2): the others have no such figure.",
    ]

"""Results of an evaluation: printed, written, and not in the way of a training."""

import json
from pathlib import Path

import pytest

from llds.callbacks import EvaluationTable
from llds.data import DataSource
from llds.evaluation import list_records, read_record
from tests.runs import answers, make_run, rows, scripted, tiny_policy

VALIDATION = DataSource("llds:quickstart/validation.jsonl", limit=5)


@pytest.mark.parametrize("stage", ["test", "validate"])
def test_results_are_printed_and_written(tmp_path: Path, stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, EvaluationTable(), sampler=scripted(answers), validation=VALIDATION)
    getattr(run.trainer, stage)(run.module, run.data, verbose=False)
    [folder] = list_records(tmp_path)
    result = json.loads((folder / "results.json").read_text())["all_questions"]
    assert (result["searches"], result["failed"], result["hit_rate"]) == (1.0, 0, result["hit_rate"])
    assert result["n"] == len(read_record(folder).questions) == (12 if stage == "test" else 5)
    assert folder.name.endswith(f"-{stage}-{Path(tiny_policy()).name}")
    shown = capsys.readouterr().out
    assert f"Results of llds {stage}" in shown
    assert max(len(line) for line in shown.splitlines()) <= 80


def test_validation_during_training_prints_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, EvaluationTable(), iterations=1, sampler=scripted(answers), validation=VALIDATION).fit()
    assert "Results of" not in capsys.readouterr().out
    assert list_records(tmp_path) == []
    assert any("val/exact_match" in row for row in rows(tmp_path))

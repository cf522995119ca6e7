"""Comparing runs: differences of conditions are said first, numbers are paired, bad input is one line."""

import csv
import io
import json
import lzma
import re
import sys
from contextlib import suppress
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
import torch
import yaml

from llds.cli import main
from llds.cli.training.checkpoint_path import check_checkpoint
from llds.errors import ConfigurationError
from llds.evaluation import new_record_folder, write_record
from tests.questions import question

RECORDINGS = Path(__file__).parents[3] / "recordings"

CARD: dict[str, Any] = {
    "created": {"time": "now"},
    "policy": {"weights_sha256": "1"},
    "rollout": {"limits": {"turns": 4}},
    "environment": {"llds": "0.1"},
}


def run(folder: Path, scores: list[float], **changes: Any) -> str:
    """An evaluated run; returns its folder."""
    questions = [question(str(number), score) for number, score in enumerate(scores)]
    write_record(new_record_folder(folder, "test", "policy"), CARD | changes, questions)
    return str(folder)


def test_runs_that_were_measured_alike_are_compared_by_question(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run(tmp_path / "a", [0.0] * 20 + [1.0] * 20)
    second = run(tmp_path / "b", [1.0] * 40, policy={"weights_sha256": "2"}, created={"time": "later"})
    main(["compare", first, second])
    shown = capsys.readouterr().out
    assert "NOT MEASURED LIKE A" not in shown
    assert "same weights" not in shown
    assert "policy.weights_sha256   A: 1   B: 2" in shown
    assert "later" not in shown
    assert "nq 40 50.0 100.0 +50.0 (+35.0 to +65.0) < 0.001" in " ".join(shown.split())
    assert "leave out" not in shown
    assert max(len(line) for line in shown.splitlines() if not line.startswith(("A:", "B:"))) <= 80


def test_other_conditions_are_said_before_any_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = run(tmp_path / "a", [0.0, 1.0])
    second = run(tmp_path / "b", [1.0, 1.0], rollout={"limits": {"turns": 8}})
    main(["compare", first, second, "--metric", "f1"])
    shown = capsys.readouterr().out
    assert shown.index("rollout.limits.turns") < shown.index("NOT MEASURED LIKE A") < shown.index("EM")
    assert "A and B measured the same weights: they are one policy." in shown
    assert "B - A: F1 on the same questions" in shown


def test_questions_that_are_not_in_both_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", run(tmp_path / "a", [1.0, 0.0, 1.0]), run(tmp_path / "b", [1.0])])
    assert "In both runs: 1 of the questions; the differences leave out 2 only in A." in capsys.readouterr().out


def test_three_runs_are_each_compared_with_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", *(run(tmp_path / name, [1.0, 0.0]) for name in "abc")])
    shown = capsys.readouterr().out
    assert "The cards are equal" in shown
    assert "B - A: exact match" in shown
    assert "C - A: exact match" in shown


def test_the_latest_of_several_evaluations_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "a", [1.0])
    main(["compare", run(tmp_path / "a", [0.0]), run(tmp_path / "b", [1.0])])
    assert "(the latest of 2 evaluations of" in capsys.readouterr().out


def trained(folder: Path, scores: list[float], seed: int, lr: float, **changes: Any) -> str:
    """An evaluated run that keeps its configuration."""
    config = {"seed_everything": seed, "model": {"init_args": {"seed": seed, "learning_rate": lr}}}
    weights, rollout = {"weights_sha256": str(folder)}, CARD["rollout"] | {"seed": seed}
    path = run(folder, scores, policy=weights, rollout=rollout, **changes)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return path


def test_runs_that_differ_in_their_seeds_are_one_row_and_seeds_are_no_other_condition(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = {(0, 1e-4): 1, (1, 1e-4): 3, (0, 1e-3): 2, (1, 1e-3): 4}
    sweep = [
        trained(tmp_path / f"{lr}-{seed}", [1.0] * right + [0.0] * (4 - right), seed, lr)
        for (seed, lr), right in scores.items()
    ]
    main(["compare", *sweep])
    shown = " ".join(capsys.readouterr().out.split())
    assert "NOT MEASURED LIKE" not in shown
    assert "rollout.seed A: 0 B: 1 C: 0 D: 1" in shown
    assert "A, B 0.0001 0, 1 50.0 ± 317.6" in shown  # 25 and 75: 12.706 * 35.36 / sqrt(2)
    assert "C, D 0.001 0, 1 75.0 ± 317.6" in shown
    assert "B - A" not in shown
    main(["compare", *sweep, run(tmp_path / "start", [1.0, 0.0]), "--format", "md"])
    written = capsys.readouterr()
    assert written.out.splitlines()[0] == "| experiment | model.learning_rate | seeds | NQ |"
    assert "| 0.0001-0, 0.0001-1 | 0.0001 | 0, 1 | 50.0 ± 317.6 |" in written.out
    assert "| start | - | unknown | 50.0 |" in written.out
    assert "of one training run each: start." in written.err


def test_one_run_of_an_experiment_is_compared_by_question_with_another_experiment_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["compare", trained(tmp_path / "a", [1.0, 0.0], 0, 1), trained(tmp_path / "b", [1.0, 1.0], 1, 1),
          trained(tmp_path / "c", [0.0, 0.0], 0, 2)])  # fmt: skip
    shown = capsys.readouterr().out
    assert "C - A" in shown
    assert "B - A" not in shown


def test_a_strangers_run_folder_is_data_and_never_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = Path(run(tmp_path / "theirs", [0.0, 1.0]))
    ours = run(tmp_path / "ours", [0.0, 1.0])
    mark = tmp_path / "it_ran"
    (theirs / "trap.py").write_text(f"open({str(mark)!r}, 'w')\nclass Trap: pass\n")
    config = "import_from: [trap.py]\nmodel: {class_path: trap.Trap}\ncollapse: {ladder: [{class_path: trap.Trap}]}\n"
    config += f"rollout: !!python/object/apply:os.system ['touch {mark}']\n"
    (theirs / "metrics.csv").write_text("iteration,reward/mean\n1,0.5\n2,0.6\n")
    monkeypatch.chdir(theirs)
    monkeypatch.syspath_prepend(str(theirs))
    for text in (config, config.rpartition("rollout")[0]):  # tags of Python are refused, the rest is read
        (theirs / "config.yaml").write_text(text)
        for command in (["report", str(theirs)], ["diagnose", str(theirs)], ["compare", ours, str(theirs)]):
            with suppress(SystemExit):
                main(command)
    assert (theirs / "report.html").is_file()
    checkpoint = theirs / "iteration-000001.ckpt"
    torch.save({"state_dict": {}, "callbacks": Touches(mark)}, checkpoint)
    with pytest.raises(ConfigurationError, match="If you trust who wrote it"):
        check_checkpoint(checkpoint, weights_only=True)  # what `llds test --ckpt_path` asks first
    assert not mark.exists()
    assert "trap" not in sys.modules


class Touches:
    """Makes a file where it is unpickled as an object."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.slow  # reading the configurations takes half a second
def test_a_recorded_sweep_is_a_table_in_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # learning rate x lambda x seed: the quickstart, three iterations and 80 test questions each
    recorded = json.loads(lzma.decompress((RECORDINGS / "sweep.json.xz").read_bytes()))
    expected: dict[tuple[str, str], dict[str, float]] = {}
    for name, files in recorded.items():
        for path, text in files.items():
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_text(text)
        [questions] = [text for path, text in files.items() if path.endswith("questions.jsonl")]
        results = [one for one in map(json.loads, questions.splitlines()) if one["data_source"] == "two_hop"]
        rate, penalty, seed = re.fullmatch(r"lr(.*)-llds(.*)-s(.)", name).groups()
        expected.setdefault((str(float(rate)), penalty), {})[seed] = 100 * fmean(one["exact_match"] for one in results)
    main(["compare", *(str(tmp_path / name) for name in recorded), "--format", "csv"])
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    found = {
        (row["optimization.learning_rate"], row["llds_penalty.coefficient"]): row
        for row in table
        if row["figure"] == "two_hop"
    }
    assert found.keys() == expected.keys()
    for key, by_seed in expected.items():
        assert found[key]["seeds"] == ", ".join(by_seed)
        assert float(found[key]["mean"]) == pytest.approx(fmean(by_seed.values()))
        if len(by_seed) == 3:
            half = 4.303 * stdev(by_seed.values()) / 3**0.5
            assert float(found[key]["high"]) - float(found[key]["mean"]) == pytest.approx(half)


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    good = run(tmp_path / "a", [1.0])
    for arguments, message in {
        (good,): "Expected at least two runs",
        (good, str(tmp_path / "nowhere")): "got nothing",
        (good, good): "got the same one twice",
    }.items():
        with pytest.raises(SystemExit) as stopped:
            main(["compare", *arguments])
        assert str(stopped.value.code).startswith("llds: Expected")
        assert message in str(stopped.value.code)
        assert "\n" not in str(stopped.value.code)


def test_what_llds_puts_beside_runs_is_left_out_with_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = run(tmp_path / "a", [1.0, 0.0]), run(tmp_path / "b", [1.0, 1.0])
    (tmp_path / "quickstart-index").mkdir()
    (tmp_path / "quickstart-index" / "manifest.json").write_text('{"format": 2, "passages_hash": "05ec"}')
    (tmp_path / "report-a-b.html").write_text("<html>")
    main(["compare", *sorted(map(str, tmp_path.iterdir()))])  # runs/*, as a shell writes it out
    said = capsys.readouterr()
    assert f"A: {first}" in said.out
    assert f"B: {second}" in said.out
    assert said.err.splitlines() == [
        f"Left out: {tmp_path / 'quickstart-index'}, which is an index and no run.",
        f"Left out: {tmp_path / 'report-a-b.html'}, which is a page and no run.",
    ]
    with pytest.raises(SystemExit, match="got a folder without one"):
        main(["compare", first, str(tmp_path)])  # what nothing tells apart from a run stays an error

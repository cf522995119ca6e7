"""Bad input through the real command line: one sentence, exit status 1, nothing half-written, nothing lost."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from llds.cli import main

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "conf" / "quickstart.yaml"
GOOD_ROW = {"question": "What is the capital of Norway?", "golden_answers": ["Oslo"]}


def quick_ones(cases: Iterable[str], number: int = 2) -> list[Any]:
    """The cases, all but the first few of them slow: each is a command from its parser to the start of its run."""
    return [pytest.param(one, marks=() if place < number else pytest.mark.slow) for place, one in enumerate(cases)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus of 40 passages, and the index that the first run builds."""
    folder = tmp_path_factory.mktemp("shared")
    with (ROOT / "llds" / "quickstart" / "corpus.jsonl").open() as lines:
        (folder / "corpus.jsonl").write_text("".join(line for line, _ in zip(lines, range(40), strict=False)))
    return folder


@pytest.fixture
def llds(shared: Path, tmp_path: Path) -> Callable[..., str]:
    """Runs a command on the smallest quickstart, in the folder `run`; returns its last words, empty after success."""

    def run(command: str, *args: object) -> str:
        settings = {
            "--data.iterations": 1,
            "--data.batch_size": 2,
            "--model.optimization.mini_batch_size": 1,
            "--rollout.group_size": 2,
            "--retrieval.retriever.path": shared / "index",
            "--retrieval.retriever.corpus": shared / "corpus.jsonl",
            "--trainer.default_root_dir": tmp_path / "run",
        }
        small = [str(word) for setting in settings.items() for word in setting]
        try:
            main([command, "-c", str(QUICKSTART), *small, *map(str, args)])
        except SystemExit as error:
            code = error.code
        else:
            code = ""
        assert isinstance(code, str), "a text as exit code goes to stderr, and the status is 1"
        return code

    return run


def what_is_left(folder: Path) -> set[str]:
    """Names in a run's folder, and of configurations anywhere below."""
    if not folder.exists():
        return set()
    found = [*folder.iterdir(), *folder.rglob("config.yaml")]
    return {path.name for path in found}


def write_rows(path: Path, *rows: dict[str, Any]) -> Path:
    """Write a jsonl file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


SETTINGS = {
    "--rollout.group_size 1": "Expected `rollout.group_size` >= 2",
    "--data.batch_size 3 --model.optimization.mini_batch_size 2": "multiple of `model.optimization.mini_batch_size`",
    "--model.optimization.mini_batch_size 2": "set `model.llds_penalty.anchor` to `lagged`",
    "--model.optimization.warmup_ratio 3": "warmup_ratio",
    "--model.llds_penalty.coefficient -1": "Expected `coefficient` of LLDSPenalty to be a number >= 0, got -1.0",
    "--data.iterations 0": "Expected `data.iterations` to be at least 1, got 0",
    "--data.max_prompt_tokens 5": "Expected prompts of at most 5 tokens, got",
    "--rollout.limits.total_tokens 10": "`rollout.limits.total_tokens` (10)",
    "--model.policy nowhere": "Expected `model.policy` to be a folder",
    "--data.train nowhere.jsonl": "nowhere.jsonl",
    "--data.train null": "Expected `data.train` to name the questions for `llds fit`, got nothing",
    "--retrieval.retriever null": "Expected `retrieval.retriever` to be set",
    "--retrieval.retriever.corpus nowhere.jsonl": "nowhere.jsonl, which does not exist",
    "--ckpt_path nowhere.ckpt": "got nowhere.ckpt: no such file",
    f"--ckpt_path {QUICKSTART}": "quickstart.yaml: a file that is none",
    f"--trainer.default_root_dir {QUICKSTART}": "quickstart.yaml is a file",
    "--trainer.accelerator tpuu": "Expected `trainer` settings that work on this machine, got: You selected an invalid",
    "--trainer.logger lightning.pytorch.loggers.CometLogger": "Expected package comet-ml for `trainer.logger` (light",
    '--trainer.logger [{"class_path":"lightning.pytorch.loggers.CometLogger"}]': "Expected package comet-ml for `trai",
}


@pytest.mark.parametrize("args", quick_ones(SETTINGS))
def test_a_setting_that_cannot_work_is_refused(args: str, llds: Callable[..., str], tmp_path: Path) -> None:
    message = llds("fit", *args.split())
    assert message.startswith("llds: Expected ")
    assert SETTINGS[args] in message
    assert "\n" not in message or " more.\n" in message  # one sentence, or ten bad rows and how many more
    assert what_is_left(tmp_path / "run") == set()


ROWS: dict[str, tuple[list[dict[str, Any]], str]] = {
    "no row": ([], "Expected at least one row in {file}, got an empty data set"),
    "wrong column": ([{"q": "x", "a": "y"}], "Set `question_field` of the data source"),
    "no gold answer": ([GOOD_ROW, {"question": "Who?", "golden_answers": []}], "in column `golden_answers`, got []"),
    "no question": ([GOOD_ROW, {"question": " ", "golden_answers": ["x"]}], "Expected a question in column `question`"),
    "same id": ([GOOD_ROW | {"id": "1"}, GOOD_ROW | {"id": "1"}], "Expected prompt ids to be unique"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", quick_ones(ROWS))
def test_a_data_file_that_cannot_be_used_is_named_with_the_row(
    name: str, llds: Callable[..., str], tmp_path: Path
) -> None:
    rows, expected = ROWS[name]
    file = write_rows(tmp_path / "questions.jsonl", *rows)
    message = llds("fit", "--data.train", file)
    assert message.startswith("llds: Expected ")
    assert expected.format(file=file) in message
    assert (f"{file}:{len(rows)}" if rows else str(file)) in message
    assert what_is_left(tmp_path / "run") == set()


@pytest.mark.slow
def test_a_file_of_another_kind_is_refused_by_its_name(llds: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "questions.csv").write_text("question,answer\n")
    assert "questions.csv" in llds("fit", "--data.train", tmp_path / "questions.csv")
    (tmp_path / "questions.parquet").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    message = llds("fit", "--data.train", tmp_path / "questions.parquet")
    assert "got a pointer of Git LFS instead of the data: fetch the data with `git lfs pull`" in message
    assert what_is_left(tmp_path / "run") == set()


@pytest.mark.slow
@pytest.mark.parametrize("command", quick_ones(["validate", "test", "predict"], 1))
def test_an_evaluation_without_questions_names_the_command(command: str, llds: Callable[..., str]) -> None:
    name = "validation" if command == "validate" else command
    message = llds(command, f"--data.{name}", "null")
    assert f"Expected `data.{name}` to name the questions for `llds {command}`, got nothing" in message


@pytest.mark.slow
def test_the_last_checkpoint_of_a_folder_without_one_cannot_be_tested(llds: Callable[..., str]) -> None:
    message = llds("test", "--ckpt_path", "last")
    assert "checkpoints for `--ckpt_path last`, got none. Train first (llds fit)" in message


@pytest.mark.slow
def test_the_folder_of_a_run_is_safe_measured_probed_and_repeated_elsewhere(
    llds: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, saved = tmp_path / "run", tmp_path / "run" / "config.yaml"
    one_step = ("--model.optimization.mini_batch_size", "2", "--model.llds_penalty.anchor", "lagged")
    assert llds("fit", *one_step, "--data.seed", 5, "--profile") == ""
    assert capsys.readouterr().out.count("of the limit") == 1
    [measured] = json.loads((run / "profile.json").read_text())["iterations"]
    assert measured["seconds"]["backward"] > 0
    assert what_is_left(run) == {
        ".run.lock", "checkpoints", "config.yaml", "csv", "policy", "profile.json", "report.html", "tensorboard",
        "trajectories",
    }  # fmt: skip
    before = contents(run)
    message = llds("fit")
    assert "which holds a run (iteration-000001.ckpt). Go on with that run: --ckpt_path last." in message
    assert contents(run) == before

    other = tmp_path / "other"
    capsys.readouterr()
    main(["fit", "-c", str(saved), "--trainer.default_root_dir", str(other)])
    assert capsys.readouterr().out.count("of the limit") == 1
    assert {path.name for path in other.iterdir()} == {path.name for path in run.iterdir()}
    again = (other / "config.yaml").read_text().replace(str(other), str(run))
    assert again.splitlines()[1:] == saved.read_text().splitlines()[1:]
    assert saved.read_text().startswith("# llds ")
    assert "--data.seed 5" in saved.read_text().splitlines()[0]
    weights = [(folder / "policy" / "model.safetensors").read_bytes() for folder in (run, other)]
    assert weights[0] == weights[1]

    few = ("--probe.questions", "2", "--probe.rollouts", "2", "--probe.label", "few")
    assert llds("probe", "--ckpt_path", "last", *few) == ""
    after = contents(run)
    assert {path: after.pop(path) for path in before} == before
    folder = run / "probes" / "iteration-000001-few"
    assert {path.relative_to(folder).name for path in after} == {"probe.json", "questions.csv", "actions.csv"}
    shown = capsys.readouterr().out
    assert "before iteration 2: 2 questions x 2" in shown
    assert str(folder) in shown.replace("\n", "")

    (other / "trap.py").write_text(f"open({str(tmp_path / 'it_ran')!r}, 'w')\nclass Trap: pass\n")
    saved.write_text(first := f"import_from: [{other}]\nmodel: {{class_path: trap.Trap}}\n")  # as a stranger's may be
    assert llds("test", "--ckpt_path", "last", "--trainer.limit_test_batches", 1, "--data.eval_batch_size", 4) == ""
    assert saved.read_text() == first
    assert not (tmp_path / "it_ran").exists()


def contents(folder: Path) -> dict[Path, bytes]:
    """Every file below a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize(("command", "name"), [("validate", "val"), ("test", "test")])
def test_an_evaluation_shows_one_table_and_not_the_one_of_lightning_too(
    command: str, name: str, llds: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert llds(command, f"--trainer.limit_{name}_batches", 1, "--data.eval_batch_size", 4) == ""
    shown = capsys.readouterr().out
    assert "95%" in shown
    assert "DataLoader 0  " not in shown


@pytest.mark.slow
def test_the_shell_sees_one_line_and_a_status_and_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "llds", "fit", "-c", str(QUICKSTART), "--data.train", "nowhere.jsonl"]
    command += ["--trainer.default_root_dir", str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("llds: Expected a data file at")
    assert "Traceback" not in done.stderr
    assert "litlogger" not in done.stderr


@pytest.mark.slow
def test_one_question_needs_no_data_and_no_folder(
    llds: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing = [word for name in ("train", "validation", "test", "predict") for word in (f"--data.{name}", "null")]
    assert llds("predict", *nothing, "--question", "What is the capital of Ghana?") == ""
    shown = capsys.readouterr().out
    labels = [line.split()[0] for line in shown[shown.index("question ") :].splitlines() if not line.startswith(" ")]
    assert labels[:3] == ["question", "search", "result"]
    assert labels[-1] in ("answer", "no")
    assert not (tmp_path / "run").exists()
    assert "Expected a question after --question" in llds("predict", *nothing, "--question", " ")


@pytest.mark.slow
def test_the_checkpoint_of_another_model_is_refused(llds: Callable[..., str], tmp_path: Path) -> None:
    assert llds("fit", "--model.lora", "{rank: 2}") == ""
    message = llds("test", "--ckpt_path", "last")
    assert "Expected `ckpt_path` to hold the weights of the model llds:quickstart/policy" in message
    assert "Set `model.policy` and `model.lora` as they were" in message
    assert "\n" not in message
    assert not (tmp_path / "run" / "evaluation").exists()

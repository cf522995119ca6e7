"""One question from the command line, end to end but for the world: no data file, nothing written."""

from pathlib import Path

import pytest

from llds.cli.training.ask import answer_question
from llds.errors import DataError, LLDSError, ToolFailure
from tests.runs import answers, make_run, scripted


def ask(folder: Path, question: str, script=answers) -> None:
    run = make_run(folder, sampler=scripted(script))
    run.trainer.loggers = []
    run.data.sources = dict.fromkeys(run.data.sources)  # no file at all
    answer_question(question, run.trainer, run.module, run.data, None)


def test_each_turn_is_shown_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask(tmp_path, "Who are you?")
    shown = capsys.readouterr().out
    lines = shown[shown.index("question") :].splitlines()  # DeepSpeed may have said before that there is no GPU
    assert [line.split()[0] for line in lines] == ["question", "search", "result", "answer"]
    assert lines[0].endswith("Who are you?")
    assert "Ghanaian" in lines[2]
    assert list(tmp_path.iterdir()) == []


def test_an_episode_without_an_answer_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask(tmp_path, "Who?", lambda *_: "<search> x </search>")
    assert capsys.readouterr().out.splitlines()[-1] == "no answer   The episode was out of turns."


def test_a_failure_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LLDSError, match="Expected an answer, got a failure"):
        ask(tmp_path, "Who?", lambda *_: ToolFailure("the engine is down"))


def test_a_question_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"at most 64 tokens.*--question"):
        ask(tmp_path, "Who? " * 100)

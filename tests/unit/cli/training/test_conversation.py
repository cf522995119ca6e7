"""Questions of the command line, and how the conversation about one is shown."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from transformers import PreTrainedTokenizerBase

from llds.cli.training.ask import answer_question
from llds.cli.training.conversation import Conversation
from llds.errors import DataError, LLDSError, ToolFailure
from llds.modules.policy.tokenizer import load_tokenizer
from llds.rollout import TagProtocol
from llds.types import Action, Prompt, Turn
from tests.runs import answers, make_run, scripted

SEARCH = Action("tool", "search", "capital of Ghana")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer("llds:quickstart/policy")


def shown(tokenizer: PreTrainedTokenizerBase, action: Action, text: str, observation: str = "") -> str:
    """What is printed of a turn, where the output is no terminal."""
    output = io.StringIO()
    conversation = Conversation(Console(file=output, width=20), tokenizer, TagProtocol())
    turn = Turn(tokenizer.encode(text), [], "stop", action, tokenizer.encode(observation))
    conversation.acted(turn)
    if observation:
        conversation.observed(turn)
    return output.getvalue()


def test_a_search_is_shown_with_its_thought_and_its_passages(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "<think> I need the capital. </think> <search> capital of Ghana </search>"
    passages = '\n\n<information>Doc 1(Title: "Ghana") The capital is Accra.\nDoc 2 Other.</information>\n\n'
    assert [line.rstrip() for line in shown(tokenizer, SEARCH, text, passages).splitlines()] == [
        "thought     I need the capital.",
        "search      capital of Ghana",
        'result      Doc 1(Title: "Ghana") The capital is Accra.',  # a line of a pipe is never broken
        "            Doc 2 Other.",
    ]


def test_an_answer_is_shown_without_its_tags(tokenizer: PreTrainedTokenizerBase) -> None:
    answer = shown(tokenizer, Action("answer", "", "Accra"), "<answer> Accra </answer>")
    assert answer == "answer      Accra\n"


def test_what_the_protocol_cannot_read_is_shown_whole_with_the_correction(tokenizer: PreTrainedTokenizerBase) -> None:
    lines = shown(tokenizer, Action("invalid"), "the capital </b>", "That action cannot be carried out.").splitlines()
    assert [line.split()[0] for line in lines] == ["invalid", "correction"]
    assert "</b>" in lines[0]


def test_what_an_opening_tool_said_is_shown(tokenizer: PreTrainedTokenizerBase) -> None:
    output = io.StringIO()
    before, said = tokenizer.encode("Question: x"), tokenizer.encode("Accra is a city.")
    prompt = Prompt("1", "x", (), prompt_ids=tuple(before), opening=range(2, 2)).opened_with(said, ("d",))
    Conversation(Console(file=output), tokenizer, TagProtocol()).opened(prompt)
    assert output.getvalue() == "result      Accra is a city.\n"


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

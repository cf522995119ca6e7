"""One episode on the screen: what is shown of each kind of turn."""

import io

import pytest
from rich.console import Console
from transformers import PreTrainedTokenizerBase

from llds.cli.training.conversation import Conversation
from llds.modules.policy.tokenizer import load_tokenizer
from llds.rollout import TagProtocol
from llds.types import Action, Prompt, Turn

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

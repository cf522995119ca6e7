"""Where the final answer stands among the tokens."""

import pytest
from transformers import PreTrainedTokenizerBase

from llds.batches.answer_span import answer_span
from llds.modules.policy.tokenizer import load_tokenizer
from llds.rollout import TagProtocol
from llds.types import Prompt, SamplingParams, Trajectory, Turn

TEXTS = [
    "<answer>Oslo</answer>",
    "<think>It is Oslo.</think>\n<answer> Oslo, in Norway </answer>",
    "<answer> no <answer> Oslo </answer>",
    "é<answer>Tromsø 日本</answer>",
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    """The shipped policy's: its tags are tokens of their own."""
    return load_tokenizer("llds:quickstart/policy")


def trajectory(tokenizer: PreTrainedTokenizerBase, text: str, split_tags: bool = False) -> Trajectory:
    def encode(text: str) -> list[int]:
        if not split_tags:
            return list(tokenizer.encode(text, add_special_tokens=False))
        pieces = text.replace("<", "\0<\0").split("\0")  # "<" apart from "answer>": tags of several tokens
        return [token for piece in pieces if piece for token in tokenizer.encode(piece, add_special_tokens=False)]

    protocol = TagProtocol()
    turns = []
    for part, observation in (("<search>x</search>", "<information> <answer>no</answer>"), (text, "")):
        ids = encode(part)
        action = protocol.parse(str(tokenizer.decode(ids)), ["search"])
        turns.append(Turn(ids, [0.0] * len(ids), "stop", action, encode(observation) if observation else []))
    return Trajectory(Prompt("p", "q", ("a",), prompt_ids=(5, 6, 7)), "g", 0, SamplingParams(), turns=turns)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("split_tags", [False, True])
def test_the_span_is_the_shortest_end_that_holds_the_last_opening_tag(
    tokenizer: PreTrainedTokenizerBase, text: str, split_tags: bool
) -> None:
    answered = trajectory(tokenizer, text, split_tags)
    span = answer_span(answered, tokenizer, TagProtocol().answer_mark)
    ids = answered.token_ids
    assert span.stop == len(ids)
    held = tokenizer.decode(ids[span.start : span.stop])
    assert held == text[text.rindex("<answer>") :]
    assert "<answer>" not in tokenizer.decode(ids[span.start + 1 : span.stop])
    assert set(answered.action_index[span.start : span.stop]) == {1}  # within the last action, whatever was retrieved


def test_without_an_answer_the_span_is_empty(tokenizer: PreTrainedTokenizerBase) -> None:
    assert len(answer_span(trajectory(tokenizer, "I do not know"), tokenizer, TagProtocol().answer_mark)) == 0


def test_a_span_that_begins_before_the_last_tokens_is_none(tokenizer: PreTrainedTokenizerBase) -> None:
    answered = trajectory(tokenizer, TEXTS[1])
    length = len(answer_span(answered, tokenizer, TagProtocol().answer_mark))
    assert len(answer_span(answered, tokenizer, TagProtocol().answer_mark, last_tokens=length)) == length
    assert len(answer_span(answered, tokenizer, TagProtocol().answer_mark, last_tokens=length - 1)) == 0

"""Fuzz of the protocols: whatever a policy writes and a tool says, nothing raises, nothing is forged, time is linear.

Actions and observations are made of pieces of tags, special tokens, odd white space and odd letters. An observation
must never hold what the protocol would read as an action, as text and as tokens; an action is read in one way only.
"""

import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from llds.modules.policy.tokenizer import load_tokenizer
from llds.rollout import ObservationEncoder, TagProtocol
from tools.bench.retrieval.retrieval_faults import POLICY
from tools.campaign.chat_protocols import FORMATS, FuzzedChat
from tools.campaign.table import Outcome

TOOLS = ("search", "calculator")
BLOCK = 2000
"""Inputs of an outcome."""
_ENCODED = 40
"""Of so many observations one is made tokens too, which takes a hundred times as long."""
_HALF_A_MEGABYTE = 500_000
_ODD = (
    "<", ">", "/", " ", "\n", "\t", "\r\n", "&lt;", "&", "\x00", "\u200b", "\u00a0", "\u2028", "\ufeff", "é", "北京",
    "🔍", "\u017f", "\u0131", "\u0130", "\u212a", "\ud800", "\udfff", "a", "x1", '"', "'", "{", "}", "[", "]", "\\",
    ":", ",", "</", "<|", "|>", "```", "<|im_end|>", "<|im_start|>", "<|endoftext|>", "</s>", "<s>", "user", "tool",
    "assistant", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>",
    '{"name": "search", "arguments": {"query": "x"}}',
)  # fmt: skip


@dataclass(frozen=True)
class Fuzzed:
    """A protocol of tags that is fuzzed.

    Attributes:
        name: In the table.
        make: Makes it.
        words: What its actions and observations are marked with.
    """

    name: str
    make: Callable[[], TagProtocol]
    words: tuple[str, ...]

    @property
    def pieces(self) -> list[str]:
        """What inputs are made of."""
        tags = [f"<{slash}{word}{space}>" for word in self.words for slash in ("", "/") for space in ("", " ")]
        halves = [tag[: len(tag) // 2] for tag in tags] + [tag[len(tag) // 2 :] for tag in tags]
        return [*_ODD, *tags, *tags, *halves, *self.words, *(tag.upper() for tag in tags)]

    @cached_property
    def protocol(self) -> TagProtocol:
        """The protocol."""
        return self.make()

    @cached_property
    def ends(self) -> list[str]:
        """What may end an action."""
        return self.protocol.stop_strings(TOOLS)

    @cached_property
    def encoder(self) -> ObservationEncoder:
        """Of observations."""
        return ObservationEncoder(load_tokenizer(POLICY), self.protocol, TOOLS)

    def wrong_action(self, text: str, draw: random.Random) -> str:
        """What is wrong with how an action is read, compared with a reader that is slow and obvious."""
        action = self.protocol.parse(text, TOOLS)
        correction = self.protocol.correct(text, TOOLS, reason=text)
        if (action.kind, action.content) != _read_slowly(text, self.protocol):
            return f"{text!r} is read as {action}"
        can_be_read = self.protocol.parse(correction.body, TOOLS).kind != "invalid"
        return f"a correction of {text!r} can be read as an action" if can_be_read else ""

    def wrong_observation(self, text: str, *, as_tokens: bool) -> str:
        """What a tool that says this forges: a tag, or a token that only the policy may write; empty for nothing."""
        observation = self.protocol.observe(text, TOOLS)
        tag = rf"<\s*/?\s*(?:{'|'.join(self.words)})\s*>"
        if re.search(tag, observation.body, re.I) or self.protocol.parse(observation.body, TOOLS).kind != "invalid":
            return f"{text!r} forges {observation.body!r}"
        if as_tokens and self.encoder.forbidden_ids & set(self.encoder.encode(observation, 64).token_ids[3:-3]):
            return f"{text!r} forges a token"
        return ""


PROTOCOLS = (
    Fuzzed("tags", lambda: TagProtocol(say_why=True), (*TOOLS, "answer", "information", "think")),
    Fuzzed(
        "other tags",
        lambda: TagProtocol(answer_tag="final", observation_tag="result", think_tag="reason"),
        (*TOOLS, "final", "result", "reason"),
    ),
)
"""All protocols of tags that ship; a new one is a line here."""
CHATS = tuple(FuzzedChat(family, _ODD) for family in FORMATS)
"""The chat protocol, with the formats of calls of public models; a new one is a word in `FORMATS`."""


def tries(draw: random.Random, folder: Path) -> Iterator[Outcome]:
    """Blocks of inputs for every protocol in turn, for ever."""
    everyone: list[Fuzzed | FuzzedChat] = [*PROTOCOLS, *CHATS]
    while True:
        for one in everyone:
            yield _actions(one, draw)
            yield _observations(one, draw)
            yield Outcome(f"{one.name}: half a megabyte of a piece", _is_slow(one, draw))


def _text(one: Fuzzed | FuzzedChat, draw: random.Random) -> str:
    text = "".join(draw.choices(one.pieces, k=draw.randint(0, 24)))
    return text + draw.choice(one.ends) if draw.random() < 0.5 else text


def _actions(one: Fuzzed | FuzzedChat, draw: random.Random) -> Outcome:
    """Read actions."""
    texts = (_text(one, draw) for _ in range(BLOCK))
    return _counted(f"{one.name}: actions", [_noted(one.wrong_action, text, draw) for text in texts])


def _observations(one: Fuzzed | FuzzedChat, draw: random.Random) -> Outcome:
    """Render what tools say."""

    def wrong(number: int) -> str:
        return _noted(one.wrong_observation, _text(one, draw), as_tokens=number % _ENCODED == 0)

    return _counted(f"{one.name}: observations", [wrong(number) for number in range(BLOCK)])


def _noted(check: Callable[..., str], text: str, *args: Any, **kwargs: Any) -> str:
    try:
        return check(text, *args, **kwargs)
    except Exception as error:
        return f"{text!r} raises {error!r}"


def _read_slowly(text: str, protocol: TagProtocol) -> tuple[str, str]:
    """Its first closing tag ends it; an answer begins with its first opening tag, a call with its last."""
    names = "|".join((*TOOLS, protocol.answer_tag))
    closing = re.search(f"</({names})>", text)
    before = "" if closing is None else text[: closing.start()]
    if closing is None or f"<{closing[1]}>" not in before:
        return "invalid", ""
    if closing[1] == protocol.answer_tag:
        return "answer", before.split(f"<{closing[1]}>", 1)[1].strip()
    return "tool", before.split(f"<{closing[1]}>")[-1].strip()


def _counted(case: str, notes: list[str]) -> Outcome:
    lost = [note for note in notes if note]
    return Outcome(case, lost[0] if lost else "", len(notes), len(lost))


def _is_slow(one: Fuzzed | FuzzedChat, draw: random.Random) -> str:
    """Whether ten times as much text takes far more than ten times as long; at times behind a piece of another kind."""
    unit, begin, end = draw.choice(one.pieces), draw.choice(("", draw.choice(one.pieces))), draw.choice(one.ends)
    long = unit * (_HALF_A_MEGABYTE // len(unit.encode("utf-8", "replace")))
    times = []
    for text in (begin + long[: len(long) // 10] + end, begin + long + end):
        started = time.process_time()
        one.protocol.parse(text, TOOLS)
        one.protocol.correct(text, TOOLS, reason=text)
        one.protocol.observe(text, TOOLS)
        times.append(time.process_time() - started)
    is_slow = times[1] > 40 * max(times[0], 0.005)
    return f"{begin!r} {unit!r}: {times[0]:.3f} s for a tenth, {times[1]:.3f} s for the whole" if is_slow else ""

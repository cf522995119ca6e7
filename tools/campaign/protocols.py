"""Fuzz of the protocols: whatever a policy writes and a tool says, nothing raises, nothing is forged, time is linear.

Actions and observations are made of pieces of tags, special tokens, odd white space and odd letters. An observation
must never hold what the protocol would read as an action, as text and as tokens; an action is read in one way only.
"""

import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from llds.modules.policy.tokenizer import load_tokenizer
from llds.rollout import ObservationEncoder, TagProtocol
from tools.bench.retrieval.retrieval_faults import POLICY
from tools.campaign.table import Outcome

TOOLS = ("search", "calculator")
BLOCK = 2000
"""Inputs of an outcome."""
_ENCODED = 40
"""Of so many observations one is made tokens too, which takes a hundred times as long."""
_ODD = (
    "<", ">", "/", " ", "\n", "\t", "\r\n", "&lt;", "&", "\x00", "\u200b", "\u00a0", "\u2028", "\ufeff", "é", "北京",
    "🔍", "\u017f", "\u0131", "\u0130", "\u212a", "\ud800", "\udfff", "a", "x1", '"', "'", "{", "}", "[", "]", "\\",
    ":", ",", "</", "<|", "|>", "```", "<|im_end|>", "<|im_start|>", "<|endoftext|>", "</s>", "<s>", "user", "tool",
    "assistant", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>",
    '{"name": "search", "arguments": {"query": "x"}}',
)  # fmt: skip


@dataclass(frozen=True)
class Fuzzed:
    """A protocol that is fuzzed.

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


PROTOCOLS = (
    Fuzzed("tags", lambda: TagProtocol(say_why=True), (*TOOLS, "answer", "information", "think")),
    Fuzzed(
        "other tags",
        lambda: TagProtocol(answer_tag="final", observation_tag="result", think_tag="reason"),
        (*TOOLS, "final", "result", "reason"),
    ),
)
"""All protocols that ship; a new one is a line here."""


def tries(draw: random.Random, folder: Path) -> Iterator[Outcome]:
    """Blocks of inputs for every protocol in turn, for ever."""
    tokenizer = load_tokenizer(POLICY)
    encoders = {one.name: ObservationEncoder(tokenizer, one.make(), TOOLS) for one in PROTOCOLS}
    while True:
        for one in PROTOCOLS:
            yield _actions(one, draw)
            yield _observations(one, encoders[one.name], draw)
            yield Outcome(f"{one.name}: half a megabyte of a piece", _is_slow(one.make(), draw.choice(one.pieces)))


def _text(pieces: list[str], draw: random.Random) -> str:
    return "".join(draw.choices(pieces, k=draw.randint(0, 24)))


def _actions(one: Fuzzed, draw: random.Random) -> Outcome:
    """Read actions; compare with a reader that is slow and obvious."""
    protocol, pieces, notes = one.make(), one.pieces, []
    for _ in range(BLOCK):
        text = _text(pieces, draw)
        try:
            action = protocol.parse(text, TOOLS)
            correction = protocol.correct(text, TOOLS, reason=text)
            if (action.kind, action.content) != _read_slowly(text, protocol):
                notes.append(f"{text!r} is read as {action}")
            elif protocol.parse(correction.body, TOOLS).kind != "invalid":
                notes.append(f"a correction of {text!r} can be read as an action")
        except Exception as error:
            notes.append(f"{text!r} raises {error!r}")
    return Outcome(f"{one.name}: actions", *_counted(notes))


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


def _observations(one: Fuzzed, encoder: ObservationEncoder, draw: random.Random) -> Outcome:
    """Render what tools say; no tag survives in it, nor a token that only the policy may write."""
    protocol, pieces, notes = one.make(), one.pieces, []
    tag = re.compile(rf"<\s*/?\s*(?:{'|'.join(one.words)})\s*>", re.IGNORECASE)
    for number in range(BLOCK):
        text = _text(pieces, draw)
        try:
            observation = protocol.observe(text, TOOLS)
            if tag.search(observation.body) or protocol.parse(observation.body, TOOLS).kind != "invalid":
                notes.append(f"{text!r} forges {observation.body!r}")
            if number % _ENCODED == 0:
                ids = encoder.encode(observation, 64).token_ids
                if encoder.forbidden_ids & set(ids[3:-3]):
                    notes.append(f"{text!r} forges a token")
        except Exception as error:
            notes.append(f"{text!r} raises {error!r}")
    return Outcome(f"{one.name}: observations", *_counted(notes))


def _counted(notes: list[str]) -> tuple[str, int, int]:
    return (notes[0] if notes else ""), BLOCK, len(notes)


def _is_slow(protocol: TagProtocol, unit: str) -> str:
    """Whether ten times as much text takes far more than ten times as long."""
    long = unit * (500_000 // len(unit.encode("utf-8", "replace")))
    times = []
    for text in (long[: len(long) // 10], long):
        started = time.process_time()
        protocol.parse(text, TOOLS)
        protocol.correct(text, TOOLS, reason=text)
        protocol.observe(text, TOOLS)
        times.append(time.process_time() - started)
    is_slow = times[1] > 40 * max(times[0], 0.005)
    return f"{unit!r}: {times[0]:.3f} s for a tenth, {times[1]:.3f} s for the whole" if is_slow else ""

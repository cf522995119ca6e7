"""What a protocol costs for each action: to read it, to render its result, and to make tokens of that.

    python -m tools.bench.rollout.protocols

`TagProtocol` and `ChatToolProtocol`, the latter with the formats of calls of public models, on an action that thinks,
then calls a search tool once, and a result of three passages; no two results are alike, as the encoder remembers texts.
A row: microseconds of `parse`, of `observe_all` and of the encoder, median of 500, and their sum.
"""

import random
import statistics
import time
from collections.abc import Callable
from typing import Any

from llds.agent_tools import AgentTool, FunctionTool
from llds.modules.policy.tokenizer import load_tokenizer
from llds.rollout import ChatToolProtocol, ObservationEncoder, Protocol, TagProtocol
from llds.types import ToolCall
from tools.bench.retrieval.retrieval_faults import POLICY
from tools.campaign.chat_protocols import FORMATS, FuzzedChat, search

_TIMES, _LIMIT = 500, 500
_THOUGHT = "I have to find out which city is the capital. " * 8
_WORDS = ["Oslo", "is", "the", "capital", "of", "Norway", "and", "a", "city", "of", "about", "700,000", "people"]


def passages(draw: random.Random) -> str:
    """What a search returns: three passages of a hundred words."""
    return "\n".join(f'Doc {number}(Title: "Oslo") {" ".join(draw.choices(_WORDS, k=100))}' for number in (1, 2, 3))


def median_us(function: Callable[[Any], Any], inputs: list[Any]) -> float:
    """Median time of a call, in microseconds."""
    times = []
    for one in inputs:
        started = time.perf_counter()
        function(one)
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e6


def row(name: str, protocol: Protocol, encoder: ObservationEncoder, said: str) -> list[float]:
    """Print and return the times of a protocol."""
    names, draw = ["search"], random.Random(0)  # noqa: S311 (words of passages)
    action = protocol.parse(said, names)
    if action.kind != "tool":
        raise AssertionError(action)
    bodies = [passages(draw) for _ in range(_TIMES)]
    texts = [protocol.observe_all(action, said, [body], names) for body in bodies]
    times = [
        median_us(lambda text: protocol.parse(text, names), [said] * _TIMES),
        median_us(lambda body: protocol.observe_all(action, said, [body], names), bodies),
        median_us(lambda text: encoder.encode(text, _LIMIT), texts),
    ]
    print(f"| {name} | {' | '.join(f'{one:.0f}' for one in [*times, sum(times)])} |")
    return times


def main() -> None:
    """Print a table."""
    print("| protocol | parse | observe | encode | sum |\n| --- | --: | --: | --: | --: |")
    tags, tool = TagProtocol(), FunctionTool(search)
    tools: list[AgentTool] = [tool]
    tokenizer = load_tokenizer(POLICY)
    tags.attach(tokenizer, tools)
    row("tags", tags, ObservationEncoder(tokenizer, tags, ["search"]), f"{_THOUGHT}<search>capital of Norway</search>")
    for family in FORMATS:
        chat = FuzzedChat(family, ())
        protocol = ChatToolProtocol()
        protocol.attach(chat.tokenizer, tools)
        encoder = ObservationEncoder(chat.tokenizer, protocol, ["search"])
        call = chat.written([ToolCall("search", {"query": "capital of Norway", "top": 3})])
        is_bare = call.startswith("{") or "<|channel|>" in call  # where no words stand before a call
        row(family, protocol, encoder, call if is_bare else f"{_THOUGHT}{call}")


if __name__ == "__main__":
    main()

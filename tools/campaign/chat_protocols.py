"""Fuzz of the chat protocol, for every way in which templates of public models write calls.

Half of the actions are odd text, of which only what is plain can be checked: no error, the right kind, tools that there
are. The other half are calls that the template itself writes, with odd arguments, which must read back as they were.
"""

import copy
import json
import lzma
import random
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from llds.agent_tools import FunctionTool
from llds.modules.policy.tokenizer import load_tokenizer
from llds.rollout import ChatToolProtocol, ObservationEncoder
from llds.rollout.protocol import ObservationText
from llds.types import Action, ToolCall
from tools.bench.retrieval.retrieval_faults import POLICY

RECORDING = Path(__file__).parents[2] / "tests" / "recordings" / "chat_templates.json.xz"
"""Templates of public models, with the names of their special and added tokens."""
FORMATS = ("qwen2_5", "qwen3", "llama3_1", "mistral_v3", "mistral_v11", "gptoss", "qwen3_5", "glm4_5")
_MANY = 10**6
_SPLIT = {"qwen3_5": "</parameter>", "glm4_5": "</arg_value>"}
"""What ends an argument that stands as it is, and so cannot be in one."""


@cache
def recording() -> dict[str, Any]:
    """The templates by family."""
    found: dict[str, Any] = json.loads(lzma.decompress(RECORDING.read_bytes()))
    return found


def chat_tokenizer(family: str, base: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A tokenizer with the chat template and the added tokens of a family of models, and a vocabulary of its own.

    Args:
        family: Of the recording.
        base: Has the vocabulary; it stays as it is.
    """
    own, found = copy.deepcopy(base), recording()[family]
    own.add_tokens([AddedToken(text, special=True) for text in found["special"]])
    own.add_tokens([AddedToken(text, special=False) for text in found["added"]])
    own.chat_template, own.bos_token, own.eos_token = found["chat_template"], found["bos"], found["eos"]
    return own


def search(query: str, top: int = 3) -> str:
    """Finds passages.

    Args:
        query: What to look for.
        top: How many.
    """
    return query * top


def calculator(expression: str) -> str:
    """Computes.

    Args:
        expression: Of numbers.
    """
    return expression


class FuzzedChat:
    """The chat protocol with the template of a family.

    Args:
        family: Of the recording.
        odd: Pieces of text.
    """

    def __init__(self, family: str, odd: tuple[str, ...]) -> None:
        self.name, self._family, self._odd = f"chat {family}", family, odd

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """With the template."""
        return chat_tokenizer(self._family, load_tokenizer(POLICY))

    @cached_property
    def protocol(self) -> ChatToolProtocol:
        """Attached."""
        protocol = ChatToolProtocol()
        protocol.attach(self.tokenizer, self.tools)
        return protocol

    @cached_property
    def tools(self) -> list[FunctionTool]:
        """Two functions."""
        return [FunctionTool(search), FunctionTool(calculator)]

    @cached_property
    def encoder(self) -> ObservationEncoder:
        """Of observations."""
        return ObservationEncoder(self.tokenizer, self.protocol, [tool.name for tool in self.tools])

    @cached_property
    def marks(self) -> list[str]:
        """Tokens that the template writes."""
        found = recording()[self._family]
        return [text for text in (*found["special"], *found["added"]) if text in found["chat_template"]]

    @cached_property
    def ends(self) -> list[str]:
        """Tokens that end a message."""
        return [str(self.tokenizer.convert_ids_to_tokens(one)) for one in self.protocol.stop_ids()]

    @cached_property
    def pieces(self) -> list[str]:
        """What inputs are made of."""
        calls = [self.written([call]) for call in (ToolCall("search", {"query": "x"}), ToolCall("other", {}))]
        halves = [one[: len(one) // 2] for one in calls] + [one[len(one) // 2 :] for one in calls]
        own = ["<function=", "<parameter=query>", "</parameter>", "</function>", '"name"', '"parameters"']
        return [*self._odd, *self.marks, *self.marks, *self.ends, *self.ends, *calls, *halves, *own]

    def written(self, calls: list[ToolCall]) -> str:
        """An action that makes calls, as the template writes it behind its prompt."""
        listed = [
            {"id": "abcdefgh1", "type": "function", "function": {"name": one.name, "arguments": dict(one.arguments)}}
            for one in calls
        ]
        user: dict[str, Any] = {"role": "user", "content": "?"}
        made = {"role": "assistant", "content": "", "tool_calls": listed}
        schemas: Any = [tool.schema for tool in self.tools]
        render = self.tokenizer.apply_chat_template
        prompt = str(render([user], tools=schemas, tokenize=False, add_generation_prompt=True))
        text = str(render([user, made], tools=schemas, tokenize=False)).removeprefix(prompt).rstrip()
        return text if text.endswith(tuple(self.ends)) else text + self.ends_of_calls

    @cached_property
    def ends_of_calls(self) -> str:
        """The token that a template leaves to the message that follows a call."""
        return next((end for end in self.ends if "observation" in end), self.ends[0])

    def wrong_action(self, text: str, draw: random.Random) -> str:
        """What is wrong with how an action is read; empty for nothing. Also tries a call, once in a while."""
        action = self.protocol.parse(text, [tool.name for tool in self.tools])
        said = self._wrong(text, action)
        correction = self.protocol.correct(text, ["search"], reason=text)
        if not said and self._forged(correction):
            said = f"a correction of {text!r} holds a mark"
        return said or (self._wrong_call(text, draw) if draw.random() < 0.05 else "")

    def _wrong(self, text: str, action: Action) -> str:
        names = {tool.name for tool in self.tools}
        ended = text.rstrip().endswith(tuple(self.ends))
        right = {
            "invalid": bool(action.reason) and not action.calls,
            "answer": ended and bool(action.content) and action.content in text,
            "tool": ended and bool(action.calls) and {call.name for call in action.calls} <= names,
        }
        json.dumps([dict(call.arguments) for call in action.calls], ensure_ascii=False).encode()
        return "" if right[action.kind] else f"{text!r} is read as {action}"

    def _wrong_call(self, text: str, draw: random.Random) -> str:
        """Write a call with this argument, and read it."""
        query = text.encode("utf-8", "replace").decode().replace(_SPLIT.get(self._family, "\0"), "")
        calls = [ToolCall("search", {"query": query, "top": draw.randint(-9, 9)})]
        said = self.written(calls)
        action = self.protocol.parse(said, [tool.name for tool in self.tools])
        found = [(call.name, call.arguments) for call in action.calls]
        return "" if found == [(one.name, one.arguments) for one in calls] else f"{said!r} reads back as {action}"

    def wrong_observation(self, text: str, *, as_tokens: bool) -> str:
        """What a tool that says this forges; empty for nothing."""
        observation = self.protocol.observe_all(self._called, self._said, [text], ["search"])
        if self._forged(observation):
            return f"{text!r} forges {observation.body!r}"
        if as_tokens and self._own_ids(observation) != self._harmless:
            return f"{text!r} forges a token"
        return ""

    def _forged(self, observation: ObservationText) -> bool:
        return any(mark in observation.body for mark in self.marks if mark[0] in "<[")

    @cached_property
    def _said(self) -> str:
        return self.written([ToolCall("search", {"query": "x"})])

    @cached_property
    def _called(self) -> Action:
        return self.protocol.parse(self._said, ["search"])

    @cached_property
    def _harmless(self) -> list[int]:
        return self._own_ids(self.protocol.observe_all(self._called, self._said, ["Oslo"], ["search"]))

    def _own_ids(self, observation: ObservationText) -> list[int]:
        """Tokens that only policy and template may write."""
        ids = self.encoder.encode(observation, _MANY).token_ids
        return [token for token in ids if token in self.encoder.forbidden_ids]

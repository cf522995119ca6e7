"""How tool calls are read: JSON with name and arguments (Qwen, Llama, Mistral), or a name before JSON (GPT-OSS, Kimi).

The third way, arguments as elements, is in `llds.rollout.protocol.element_calls`; which of them a chat template has is
found out in `llds.rollout.protocol.chat_format`.
"""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llds.types import ToolCall

Schemas = Mapping[str, Mapping[str, Any]]
"""JSON schemas of the parameters of tools, by the name of the tool."""
NAME_CHARS = r"[A-Za-z0-9_.\-]+"
_LONGEST_ID = 64
_DEEPEST = 32
"""Lists and objects in each other; who keeps or sends what is nested deeper may run out of stack."""


class UnreadableCallError(ValueError):
    """A call that the format does not allow; the message is for the model."""


class CallFormat(ABC):
    """A template's format of calls.

    Attributes:
        opening: What a call begins with; empty where a message is nothing but the JSON of a call.
        closing: What ends it.
        end: The token that ends a message with calls.
        is_single: Whether a message has one call at most.
    """

    opening: str
    closing: str
    end: str
    is_single: bool

    @abstractmethod
    def read(self, text: str, schemas: Schemas) -> list[ToolCall]:
        """The calls of a message, without the token that ends it; none where it makes none. Linear in its length.

        Args:
            text: The message.
            schemas: Of the tools that the agent has.

        Raises:
            UnreadableCallError: If a call is begun that cannot be read.
        """

    @property
    def is_channel(self) -> bool:
        """Whether a call may stand where the reasoning has not ended, because it names a channel of its own."""
        return False

    @property
    def marks(self) -> set[str]:
        """Texts that only belong to calls."""
        return {*self.opening.split(), *self.closing.split()}

    def check_count(self, calls: list[ToolCall]) -> list[ToolCall]:
        """The calls, if a message may have so many."""
        if self.is_single and len(calls) > 1:
            raise UnreadableCallError("A message may hold one call only.")
        return calls


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_number)


@dataclass(frozen=True)
class JsonCalls(CallFormat):
    """Calls whose arguments are JSON.

    Attributes:
        opening: What a call begins with; empty where a message is nothing but the JSON of a call.
        before_arguments: What ends the name, where the name stands before the JSON; empty where it is within.
        closing: What follows the JSON.
        end: The token that ends a message with calls.
        name_key: Of the JSON.
        arguments_key: Of the JSON.
        is_array: Whether the calls are one JSON array.
        is_single: Whether a message has one call at most.
        has_id: Whether an id stands between the name and the arguments.
    """

    opening: str
    before_arguments: str
    closing: str
    end: str
    name_key: str = ""
    arguments_key: str = ""
    is_array: bool = False
    is_single: bool = False
    has_id: bool = False

    @property
    def is_channel(self) -> bool:
        """Where the name stands before the JSON."""
        return not self.name_key

    def read(self, text: str, schemas: Schemas) -> list[ToolCall]:
        """One call after the other."""
        calls: list[ToolCall] = []
        at = self._next(text, 0)
        while at >= 0:
            found, at = self._read_one(text, at)
            calls += found
            at = self._next(text, at) if self.opening else -1
        return self.check_count(calls)

    def _next(self, text: str, start: int) -> int:
        """Where the next call begins, behind its opening; -1 where none does."""
        if self.opening:
            found = text.find(self.opening, start)
            return -1 if found < 0 else found + len(self.opening)
        stripped = text.lstrip()
        return len(text) - len(stripped) if stripped.startswith("{") and f'"{self.name_key}"' in stripped else -1

    def _read_one(self, text: str, at: int) -> tuple[list[ToolCall], int]:
        name, call_id = "", ""
        if not self.name_key:
            match = re.compile(NAME_CHARS).match(text, at)
            mark = text.find(self.before_arguments, match.end()) if match else -1
            if match is None or mark < 0:
                raise UnreadableCallError("The call has no name, or no arguments after it.")
            given = re.search(rf"{NAME_CHARS}$", text[match.end() : mark][-_LONGEST_ID:]) if self.has_id else None
            name, call_id, at = match[0], given[0] if given else "", mark + len(self.before_arguments)
        value, end = decode(text, skip_space(text, at))
        calls = [
            self._call(one, name, call_id) for one in (value if self.is_array and isinstance(value, list) else [value])
        ]
        after = skip_space(text, end)
        if not text.startswith(self.closing, after):
            raise UnreadableCallError(f"The call is not closed by {self.closing}.")
        return calls, after + len(self.closing)

    def _call(self, value: Any, name: str, call_id: str) -> ToolCall:
        if not isinstance(value, dict):
            raise UnreadableCallError("A call is a JSON object.")
        if not self.name_key:
            return ToolCall(name, value, call_id)
        called, arguments = value.get(self.name_key), value.get(self.arguments_key, {})
        if not isinstance(called, str):
            raise UnreadableCallError(f'The call has no "{self.name_key}".')
        if isinstance(arguments, str):  # some models write the arguments as a text that holds JSON
            arguments = decode(arguments, 0)[0]
        if not isinstance(arguments, dict):
            raise UnreadableCallError(f'"{self.arguments_key}" of a call is a JSON object.')
        given = value.get("id")
        return ToolCall(called, arguments, given if isinstance(given, str) else "")


def skip_space(text: str, at: int) -> int:
    """Where the white space ends that begins there."""
    match = re.compile(r"\s*").match(text, at)
    return match.end() if match else at


def tried_decode(text: str, at: int) -> tuple[Any, int]:
    """The JSON that begins there, and where it ends; None where there is none."""
    try:
        return _DECODER.raw_decode(text, at)
    except (ValueError, RecursionError):
        return None, 0


def decode(text: str, at: int) -> tuple[Any, int]:
    """The JSON that begins there, and where it ends.

    Raises:
        UnreadableCallError: If there is none, or it cannot be kept.
    """
    try:
        value, end = _DECODER.raw_decode(text, at)
        text[at:end].encode()
        json.dumps(value, ensure_ascii=False).encode()  # an escaped half of a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        raise UnreadableCallError(f"The call is no valid JSON: {str(error)[:100]}.") from None
    check_depth(value)
    return value, end


def check_depth(value: Any) -> None:
    """Raise an `UnreadableCallError` if lists and objects stand too deep in each other."""
    if _is_deeper(value, _DEEPEST):
        raise UnreadableCallError(f"The call is nested more than {_DEEPEST} deep.")


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects stand more than so many deep in each other; without recursion."""
    level = [value]
    for _ in range(levels + 1):
        inner = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        level = [one for some in inner for one in some]
    return bool(level)

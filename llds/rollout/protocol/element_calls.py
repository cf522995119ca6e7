"""Tool calls whose arguments stand in elements, as Qwen3-Coder, Qwen3.5, Nemotron 3 and GLM-4.5 write them.

``<function=search><parameter=query>x</parameter></function>``, or ``search<arg_key>query</arg_key><arg_value>x``: the
marks come from the template. A text stands as it is; what else an argument may be is JSON, which only the tool's schema
tells apart.
"""

import ast
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llds.rollout.protocol.call_format import (
    NAME_CHARS,
    CallFormat,
    Schemas,
    UnreadableCallError,
    check_depth,
    tried_decode,
)
from llds.types import ToolCall

_LONGEST_LITERAL = 10_000
"""Characters of a value that is read as Python would write it."""
_JSON_TYPES: dict[type, tuple[str, ...]] = {
    bool: ("boolean",),
    int: ("integer", "number"),
    float: ("number",),
    list: ("array",),
    dict: ("object",),
    type(None): ("null",),
}


@dataclass(frozen=True)
class ElementCalls(CallFormat):
    """A format of calls.

    Attributes:
        opening: What stands before the name.
        after_name: What ends the name; empty where white space or the first argument does.
        key_opening: What stands before the name of an argument.
        after_key: What stands between it and its value.
        value_closing: What ends the value.
        closing: What ends the call.
        end: The token that ends a message with calls.
        is_single: Whether a message has one call at most.
    """

    opening: str
    after_name: str
    key_opening: str
    after_key: str
    value_closing: str
    closing: str
    end: str
    is_single: bool = False

    @property
    def marks(self) -> set[str]:
        """Also those of arguments."""
        return super().marks | {word for one in (self.key_opening, self.after_key, self.value_closing)
                                for word in one.split() if word[:1] == "<"}  # fmt: skip

    def read(self, text: str, schemas: Schemas) -> list[ToolCall]:
        """One call after the other; a call begins with any word of its opening."""
        calls: list[ToolCall] = []
        begin = re.compile("|".join(re.escape(word) for word in self.opening.split() if word[0] == "<"))
        found = begin.search(text)
        while found:
            call, at = self._read_one(text, found.start(), schemas)
            calls.append(call)
            found = begin.search(text, at)
        return self.check_count(calls)

    def _read_one(self, text: str, at: int, schemas: Schemas) -> tuple[ToolCall, int]:
        start, match = at, self._named.match(text, at)
        if match is None:
            begin = self._in_words(f"{self.opening}NAME{self.after_name}")
            raise UnreadableCallError(f"A call begins with {begin}.")
        arguments: dict[str, Any] = {}
        known = schemas.get(match["name"], {}).get("properties", {})
        at = match.end()
        for key, value, end in self._elements(text, at):
            if key in arguments:
                raise UnreadableCallError(f"The argument {key[:64]!r} is given twice.")
            arguments[key], at = _value(value, known.get(key)), end
        closed = self._closed.match(text, at)
        if closed is None:
            raise UnreadableCallError(f"The call is not closed by {self._in_words(self.closing)}.")
        _check_text(text[start : closed.end()])
        return ToolCall(match["name"], arguments), closed.end()

    def _elements(self, text: str, at: int) -> Iterator[tuple[str, str, int]]:
        """Name and value of each argument, and where it ends."""
        closing = self.value_closing.strip()
        while match := self._key.match(text, at):
            end = text.find(closing, match.end())
            if end < 0:
                raise UnreadableCallError(f"The argument {match['key'][:64]!r} is not closed by {closing}.")
            at = end + len(closing)
            yield match["key"], self._unframed(text[match.end() : end]), at

    def _unframed(self, value: str) -> str:
        """A value without the line breaks that the template puts around it."""
        value = value.removeprefix("\n") if self.after_key.endswith("\n") else value
        return value.removesuffix("\n") if self.value_closing.startswith("\n") else value

    @cached_property
    def _named(self) -> re.Pattern[str]:
        return re.compile(rf"{_loosely(self.opening)}\s*+(?P<name>{NAME_CHARS}){_loosely(self.after_name)}")

    @cached_property
    def _key(self) -> re.Pattern[str]:
        return re.compile(rf"{_loosely(self.key_opening)}\s*+(?P<key>{NAME_CHARS}){_loosely(self.after_key)}")

    @cached_property
    def _closed(self) -> re.Pattern[str]:
        return re.compile(_loosely(self.closing))

    def _in_words(self, marks: str) -> str:
        return " ".join(marks.split())


def element_calls(
    one: Sequence[str], both: Sequence[str] | None, twice: Sequence[str] | None, closing: str, end: str, is_single: bool
) -> ElementCalls | None:
    """Read a format from what stands around the words of rendered calls; None where it is another kind of format.

    Args:
        one: Before the name, between it and the key, between that and the value, behind the value.
        both: The same from the first value on, of a call with two arguments.
        twice: The same from the first value on, of two calls; None where a message holds one.
        closing: What stands behind the value, up to the end of the message.
        end: The token that ends the message.
        is_single: Whether a message has one call at most.
    """
    before, after_name, after_key, _ = one
    key_opening = after_name[after_name.rfind("<") :] if "<" in after_name else ""
    if both is None or not key_opening or both[2] != after_key or not both[1].endswith(key_opening):
        return None
    value_closing = both[1].removesuffix(key_opening).rstrip()
    if "<" not in value_closing or not closing.startswith(value_closing.strip()):
        return None
    closing = closing.removeprefix(value_closing.strip()).strip()
    opening = (before.split() or [""])[-1]
    if twice is not None and not is_single:
        behind = twice[1].strip().removeprefix(value_closing.strip()).strip()
        opening = behind.removeprefix(closing).strip() if behind.startswith(closing) else ""
    if not opening.startswith("<") or not closing:
        return None
    name_end = after_name.removesuffix(key_opening).strip()
    return ElementCalls(opening, name_end, key_opening, after_key, value_closing, closing, end, is_single)


def split_at(text: str, words: Sequence[str]) -> list[str] | None:
    """The text before, between and behind words that stand in it once each, in this order; None where they do not."""
    parts, rest = [], text
    for word in words:
        before, found, rest = rest.partition(word)
        if not found or word in rest:
            return None
        parts.append(before)
    return [*parts, rest]


def _value(text: str, schema: Mapping[str, Any] | None) -> Any:
    """An argument: the text, or the JSON in it where the schema wants no text, or there is none."""
    wanted = _types(schema)
    if wanted == {"string"}:
        return text
    stripped = text.strip()
    value, end = tried_decode(stripped, 0)
    if end < len(stripped):
        value = _literal(stripped)
    if not stripped or isinstance(value, str):
        return text
    check_depth(value)
    _check_text(json.dumps(value, ensure_ascii=False))  # an escaped half of a surrogate pair is no text
    return value if wanted is None or wanted & set(_JSON_TYPES[type(value)]) else text


def _literal(text: str) -> Any:
    """What a text means in Python, as some templates write lists, ``True`` and ``None``; the text where it is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # about the model's text, of no use to the user
            return json.loads(json.dumps(ast.literal_eval(text))) if len(text) <= _LONGEST_LITERAL else text
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return text


def _types(schema: Mapping[str, Any] | None) -> set[str] | None:
    """The types of JSON that a schema allows; None where it does not say."""
    if schema is None:
        return None
    named = schema.get("type")
    if named is not None:
        return {named} if isinstance(named, str) else set(named)
    choices = [_types(one) for one in (*schema.get("anyOf", ()), *schema.get("oneOf", ()))]
    if not choices or None in choices:
        return None
    return {name for one in choices if one is not None for name in one}


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UnreadableCallError(f"The call is no text: {error.reason}.") from None


def _loosely(marks: str) -> str:
    """A pattern of marks with any white space before and between them."""
    return "".join(rf"\s*+{re.escape(word)}" for word in marks.split())

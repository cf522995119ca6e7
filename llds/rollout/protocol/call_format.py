"""How a chat template writes a tool call, an answer and a result: found out by rendering words that stand for them.

Nothing here knows a family of models. Words that no template contains are put in the place of a tool's name, of its
arguments and of its result; where they come out, and what stands around them, is the format. A call is JSON with name
and arguments (Qwen, Llama, Mistral), or a name followed by JSON (GPT-OSS, Kimi). Formats without JSON are refused.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llds.errors import ConfigurationError
from llds.types import ToolCall

NAME, KEY, VALUE, ASK, SAID, THOUGHT = "qznameq", "qzkeyq", "qzvalueq", "qzaskq", "qzsaidq", "qzthoughtq"
CALL_ID = "callq0000"  # nine letters and digits, as Mistral's templates want
BODY = 'qz"bodyq'
"""With a quotation mark, which tells whether the template writes a result as JSON."""
_BODY_AS_JSON = json.dumps(BODY)[1:-1]
_NAME_CHARS = r"[A-Za-z0-9_.\-]+"
_LONGEST_ID = 64
_DEEPEST = 32
"""Lists and objects in each other; who keeps or sends what is nested deeper may run out of stack."""

Message = dict[str, Any]
Render = Callable[[Sequence[Message], bool], str]
"""Messages, and whether the model is to go on after them, as text."""


class UnreadableCallError(ValueError):
    """A call that the format does not allow; the message is for the model."""


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_number)


@dataclass(frozen=True)
class CallFormat:
    """A template's format of calls.

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

    def read(self, text: str) -> list[ToolCall]:
        """The calls of a message, without the token that ends it; none where it makes none. Linear in its length.

        Raises:
            UnreadableCallError: If a call is begun that cannot be read.
        """
        calls: list[ToolCall] = []
        at = self._next(text, 0)
        while at >= 0:
            found, at = self._read_one(text, at)
            calls += found
            at = self._next(text, at) if self.opening else -1
        if self.is_single and len(calls) > 1:
            raise UnreadableCallError("A message may hold one call only.")
        return calls

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
            match = re.compile(_NAME_CHARS).match(text, at)
            mark = text.find(self.before_arguments, match.end()) if match else -1
            if match is None or mark < 0:
                raise UnreadableCallError("The call has no name, or no arguments after it.")
            given = re.search(rf"{_NAME_CHARS}$", text[match.end() : mark][-_LONGEST_ID:]) if self.has_id else None
            name, call_id, at = match[0], given[0] if given else "", mark + len(self.before_arguments)
        value, end = _decode(text, _skip_space(text, at))
        calls = [
            self._call(one, name, call_id) for one in (value if self.is_array and isinstance(value, list) else [value])
        ]
        after = _skip_space(text, end)
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
            arguments = _decode(arguments, 0)[0]
        if not isinstance(arguments, dict):
            raise UnreadableCallError(f'"{self.arguments_key}" of a call is a JSON object.')
        given = value.get("id")
        return ToolCall(called, arguments, given if isinstance(given, str) else "")


@dataclass(frozen=True)
class ChatFormat:
    """All that a protocol must know of a template.

    Attributes:
        calls: The format of calls.
        answer_end: The token that ends an answer.
        answer_opening: What stands before an answer, behind the reasoning; empty for nothing.
        reasoning_opening: What begins the reasoning; empty for nothing.
        results: Text around the results of one call: before, behind. The first begins with the end of the action.
        between: Text between two results of one message; None where the template has no such messages.
        result_is_json: Whether a result is written as the inside of a JSON string.
        marks: All marks of the format, special tokens or not.
    """

    calls: CallFormat
    answer_end: str
    answer_opening: str
    reasoning_opening: str
    results: tuple[str, str]
    between: str | None
    result_is_json: bool
    marks: frozenset[str]


def call_message(calls: Sequence[tuple[str, Mapping[str, Any]]]) -> Message:
    """An assistant's message that makes calls, as templates take it."""
    listed = [
        {"id": CALL_ID, "type": "function", "function": {"name": name, "arguments": dict(arguments)}}
        for name, arguments in calls
    ]
    return {"role": "assistant", "content": "", "tool_calls": listed}


def result_message(name: str, body: str = BODY) -> Message:
    """A tool's message, as templates take it."""
    return {"role": "tool", "name": name, "content": body, "tool_call_id": CALL_ID}


def find_format(render: Render, special: Sequence[str], name: str = NAME) -> ChatFormat:
    """Find the format out.

    Args:
        render: The template.
        special: The tokenizer's special tokens.
        name: The name of a tool, which stands in the messages of results.

    Raises:
        ConfigurationError: If the template writes no calls, or no results, or writes them without JSON.
    """
    user = {"role": "user", "content": ASK}
    prompt = render([user], True)
    called = render([user, call_message([(NAME, {KEY: VALUE})])], False)
    if NAME not in called or VALUE not in called:
        raise ConfigurationError(
            "Expected a chat template that writes a tool's name and arguments for `model.protocol`, got one that "
            "leaves them out. Use a model whose template knows tool calls, or llds.rollout.TagProtocol."
        )
    several = _tried(render, [user, call_message([(NAME, {KEY: VALUE})] * 2)], False)
    is_single = several is None or several.count(VALUE) < 2
    calls = _call_format(called, _common(prompt, called), special, is_single)
    answer_end, opening, reasoning = _answer_format(render, user, prompt, special)
    before, behind, is_json = _result_format(render, user, calls, name)
    between = None if is_single else _between(render, user, name)
    written = before + behind + (between or "") + called[called.index(ASK) :]
    marks = {*re.findall(r"</?[^<>\s]{1,64}>|\[/?[A-Z_]{2,64}\]", written)}
    marks |= {mark for mark in (calls.opening, calls.closing, opening, reasoning) if mark}
    return ChatFormat(calls, answer_end, opening, reasoning, (before, behind), between, is_json, frozenset(marks))


def _call_format(text: str, start: int, special: Sequence[str], is_single: bool) -> CallFormat:
    """Read the format from a rendered call."""
    place = text.index(NAME, start)
    for at in _braces_before(text, place):
        value, end = _tried_decode(text, at)
        if isinstance(value, dict) and NAME in value.values():
            arguments = next((key for key, one in value.items() if one in ({KEY: VALUE}, json.dumps({KEY: VALUE}))), "")
            if not arguments:
                break
            name_key = next(key for key, one in value.items() if one == NAME)
            before, after = text[start:at], text[end:]
            is_array = before.rstrip().endswith("[") and after.lstrip().startswith("]")
            if is_array:
                before, after = before.rstrip()[:-1], after.lstrip()[1:]
            closing, end_token = _closing(after, special)
            return CallFormat(_last_word(before), "", closing, end_token, name_key, arguments, is_array, is_single)
    return _named_call_format(text, start, place, special, is_single)


def _named_call_format(text: str, start: int, place: int, special: Sequence[str], is_single: bool) -> CallFormat:
    """Of a call whose name stands before the JSON of its arguments."""
    at = text.find("{", place)
    value, end = _tried_decode(text, at) if at >= 0 else (None, 0)
    opening, separator = _last_word(text[start:place]), text[place + len(NAME) : at]
    if value != {KEY: VALUE} or not opening or not separator.strip():
        raise ConfigurationError(
            "Expected a chat template that writes a tool call as JSON for `model.protocol`, got "
            f"{text[max(start, place - 80) : place + 120]!r}. Subclass llds.rollout.Protocol for such a format."
        )
    mark = max((token for token in special if token in separator), key=separator.rfind, default=separator.strip())
    closing, end_token = _closing(text[end:], special)
    return CallFormat(opening, mark, closing, end_token, is_single=is_single, has_id=CALL_ID in separator)


def _answer_format(render: Render, user: Message, prompt: str, special: Sequence[str]) -> tuple[str, str, str]:
    """The token that ends an answer, what stands before it, and what begins the reasoning."""
    plain = render([user, {"role": "assistant", "content": SAID}], False)
    start = _common(prompt, plain)
    end = _closing(plain[plain.index(SAID) + len(SAID) :], special)[1]
    openings, reasoning = [plain[start : plain.index(SAID)].strip()], ""
    message = {"role": "assistant", "content": SAID, "reasoning_content": THOUGHT, "thinking": THOUGHT}
    thought = _tried(render, [user, message], False)
    if thought is not None and THOUGHT in thought:
        at = thought.index(THOUGHT)
        openings.append(thought[at + len(THOUGHT) : thought.index(SAID)].strip())
        reasoning = thought[_common(prompt, thought) : at].strip()
    return end, min((one for one in openings if one), key=len, default=""), reasoning


def _result_format(render: Render, user: Message, calls: CallFormat, name: str) -> tuple[str, str, bool]:
    """What stands before and behind a result, the former from the end of the action on; whether it is JSON."""
    text = render([user, call_message([(name, {KEY: VALUE})]), result_message(name)], True)
    is_json = _BODY_AS_JSON in text
    body = _BODY_AS_JSON if is_json else BODY
    if body not in text:
        raise ConfigurationError(
            "Expected a chat template that writes a tool's result for `model.protocol`, got one that leaves it out. "
            "Use a model whose template knows tool calls, or llds.rollout.TagProtocol."
        )
    at = text.index(body)
    return text[text.index(calls.end, text.index(VALUE)) : at], text[at + len(body) :], is_json


def _between(render: Render, user: Message, name: str) -> str | None:
    results = [result_message(name)] * 2
    text = _tried(render, [user, call_message([(name, {KEY: VALUE})] * 2), *results], True)
    body = _BODY_AS_JSON if text is not None and _BODY_AS_JSON in text else BODY
    if text is None or text.count(body) < 2:
        return None
    return text.split(body)[1]


def _tried(render: Render, messages: Sequence[Message], goes_on: bool) -> str | None:
    try:
        return render(messages, goes_on)
    except ConfigurationError:
        return None


def _closing(text: str, special: Sequence[str]) -> tuple[str, str]:
    """What stands before the last special token of a text, and that token."""
    end = max(
        (token for token in special if token in text), key=lambda token: (text.rfind(token), len(token)), default=""
    )
    if not end:
        raise ConfigurationError(
            "Expected a chat template that ends a message with a special token for `model.protocol`, got "
            f"{text[:80]!r}. Use llds.rollout.TagProtocol."
        )
    return text[: text.rfind(end)].strip(), end


def _common(first: str, second: str) -> int:
    """Characters that two texts have in common at their beginning."""
    pairs = zip(first, second, strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))


def _last_word(text: str) -> str:
    return (text.split() or [""])[-1]


def _braces_before(text: str, place: int) -> list[int]:
    return [match.start() for match in re.finditer(r"\{", text[:place])][::-1][:8]


def _skip_space(text: str, at: int) -> int:
    match = re.compile(r"\s*").match(text, at)
    return match.end() if match else at


def _tried_decode(text: str, at: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, at)
    except ValueError:
        return None, 0


def _decode(text: str, at: int) -> tuple[Any, int]:
    try:
        value, end = _DECODER.raw_decode(text, at)
        text[at:end].encode()
        json.dumps(value, ensure_ascii=False).encode()  # an escaped half of a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        raise UnreadableCallError(f"The call is no valid JSON: {str(error)[:100]}.") from None
    if _is_deeper(value, _DEEPEST):
        raise UnreadableCallError(f"The call is nested more than {_DEEPEST} deep.")
    return value, end


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects stand more than so many deep in each other; without recursion."""
    level = [value]
    for _ in range(levels + 1):
        inner = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        level = [one for some in inner for one in some]
    return bool(level)

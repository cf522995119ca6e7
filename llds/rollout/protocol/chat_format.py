"""How a chat template writes a tool call, an answer and a result: found out by rendering words that stand for them.

Nothing here knows a family of models. Words that no template contains are put in the place of a tool's name, of its
arguments and of its result; where they come out, and what stands around them, is the format. A call is JSON
(`llds.rollout.protocol.call_format`) or has its arguments in elements (`llds.rollout.protocol.element_calls`). Others
are refused.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llds.errors import ConfigurationError
from llds.rollout.protocol.call_format import CallFormat, JsonCalls, tried_decode
from llds.rollout.protocol.element_calls import ElementCalls, element_calls, split_at

NAME, KEY, VALUE, ASK, SAID, THOUGHT = "qznameq", "qzkeyq", "qzvalueq", "qzaskq", "qzsaidq", "qzthoughtq"
NEXT_NAME, NEXT_KEY, NEXT_VALUE = "qznextnameq", "qznextkeyq", "qznextvalueq"
CALL_ID = "callq0000"  # nine letters and digits, as Mistral's templates want
BODY = 'qz"bodyq'
"""With a quotation mark, which tells whether the template writes a result as JSON."""
_BODY_AS_JSON = json.dumps(BODY)[1:-1]

Message = dict[str, Any]
Render = Callable[[Sequence[Message], bool], str]
"""Messages, and whether the model is to go on after them, as text."""


@dataclass(frozen=True)
class ChatFormat:
    """All that a protocol must know of a template.

    Attributes:
        calls: The format of calls.
        answer_end: The token that ends an answer.
        answer_opening: What stands before an answer, behind the reasoning; empty for nothing.
        reasoning_opening: What begins the reasoning; empty for nothing.
        is_reasoning: Whether the prompt has begun the reasoning, so that all is reasoning up to `answer_opening`.
        results: Text around the results of one call: before, behind. The first begins with the end of the action.
        between: Text between two results of one message; None where the template has no such messages.
        result_is_json: Whether a result is written as the inside of a JSON string.
        marks: All marks of the format, special tokens or not.
    """

    calls: CallFormat
    answer_end: str
    answer_opening: str
    reasoning_opening: str
    is_reasoning: bool
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
        ConfigurationError: If the template writes no calls, or no results, or writes calls in another way.
    """
    user = {"role": "user", "content": ASK}
    prompt = render([user], True)
    called = render([user, call_message([(NAME, {KEY: VALUE})])], False)
    if NAME not in called or VALUE not in called:
        raise ConfigurationError(
            "Expected a chat template that writes a tool's name and arguments for `model.protocol`, got one that "
            "leaves them out. Use a model whose template knows tool calls, say in `protocol.call_text` how it writes "
            "them, or use llds.rollout.TagProtocol."
        )
    several = _tried(render, [user, call_message([(NAME, {KEY: VALUE})] * 2)], False)
    is_single = several is None or several.count(VALUE) < 2
    start = _common(prompt, called)
    ends = _Ends(
        special, _following(render, called, [user, call_message([(NAME, {KEY: VALUE})]), result_message(name)])
    )
    calls = (
        _json_calls(called, start, ends, is_single)
        or _element_calls(render, user, called, ends, is_single)
        or _named_calls(called, start, ends, is_single)
    )
    answer_end, opening, reasoning, is_reasoning = _answer_format(render, user, prompt, special)
    before, behind, is_json = _result_format(render, user, calls, name)
    between = None if is_single else _between(render, user, name)
    written = before + behind + (between or "") + called[called.index(ASK) :]
    marks = {*re.findall(r"</?[^<>\s]{1,64}>|\[/?[A-Z_]{2,64}\]", written)}
    marks = {mark for mark in marks if not any(word in mark for word in (NAME, KEY, VALUE))}
    marks |= calls.marks | {mark for mark in (opening, reasoning) if mark}
    results = (before, behind)
    return ChatFormat(calls, answer_end, opening, reasoning, is_reasoning, results, between, is_json, frozenset(marks))


@dataclass(frozen=True)
class _Ends:
    """Tokens that may end a message.

    Attributes:
        special: The tokenizer's special tokens.
        following: What a template writes next, for one that ends a message by beginning another (GLM).
    """

    special: Sequence[str]
    following: str

    def split(self, text: str) -> tuple[str, str]:
        """What stands before the last special token of a text, and that token."""
        found = [token for token in self.special if token in text]
        if found:
            end = max(found, key=lambda token: (text.rfind(token), len(token)))
            return text[: text.rfind(end)].strip(), end
        next_one = max((one for one in self.special if self.following.lstrip().startswith(one)), key=len, default="")
        if not next_one:
            raise ConfigurationError(
                "Expected a chat template that ends a message with a special token for `model.protocol`, got "
                f"{text[:80]!r}. Use llds.rollout.TagProtocol."
            )
        return text.strip(), next_one


def _following(render: Render, text: str, messages: Sequence[Message]) -> str:
    """What a template writes after a text, when another message follows."""
    longer = _tried(render, messages, False)
    return longer.removeprefix(text) if longer is not None and longer.startswith(text) else ""


def _json_calls(text: str, start: int, ends: _Ends, is_single: bool) -> JsonCalls | None:
    """Of a call that is JSON with name and arguments."""
    place = text.index(NAME, start)
    for at in _braces_before(text, place):
        value, end = tried_decode(text, at)
        if isinstance(value, dict) and NAME in value.values():
            arguments = next((key for key, one in value.items() if one in ({KEY: VALUE}, json.dumps({KEY: VALUE}))), "")
            if not arguments:
                break
            name_key = next(key for key, one in value.items() if one == NAME)
            before, after = text[start:at], text[end:]
            is_array = before.rstrip().endswith("[") and after.lstrip().startswith("]")
            if is_array:
                before, after = before.rstrip()[:-1], after.lstrip()[1:]
            closing, end_token = ends.split(after)
            return JsonCalls(_last_word(before), "", closing, end_token, name_key, arguments, is_array, is_single)
    return None


def _element_calls(render: Render, user: Message, called: str, ends: _Ends, is_single: bool) -> ElementCalls | None:
    """Of a call whose arguments stand in elements; also rendered with two arguments, and twice."""
    both = _tried(render, [user, call_message([(NAME, {KEY: VALUE, NEXT_KEY: NEXT_VALUE})])], False)
    twice = _tried(render, [user, call_message([(NAME, {KEY: VALUE}), (NEXT_NAME, {})])], False)
    parts = split_at(called, (NAME, KEY, VALUE))
    if parts is None or both is None:
        return None
    closing, end = ends.split(parts[3])
    return element_calls(
        parts, split_at(both, (VALUE, NEXT_KEY, NEXT_VALUE)), split_at(twice or "", (VALUE, NEXT_NAME)), closing, end,
        is_single=is_single,
    )  # fmt: skip


def _named_calls(text: str, start: int, ends: _Ends, is_single: bool) -> JsonCalls:
    """Of a call whose name stands before the JSON of its arguments."""
    place = text.index(NAME, start)
    at = text.find("{", place)
    value, end = tried_decode(text, at) if at >= 0 else (None, 0)
    opening, separator = _last_word(text[start:place]), text[place + len(NAME) : at]
    if value != {KEY: VALUE} or not opening or not separator.strip():
        raise ConfigurationError(
            "Expected a chat template that writes a tool call as JSON, or its arguments as elements, for "
            "`model.protocol`, got "
            f"{text[max(start, place - 80) : place + 120]!r}. Subclass llds.rollout.Protocol for such a format."
        )
    mark = max((token for token in ends.special if token in separator), key=separator.rfind, default=separator.strip())
    closing, end_token = ends.split(text[end:])
    return JsonCalls(opening, mark, closing, end_token, is_single=is_single, has_id=CALL_ID in separator)


def _answer_format(render: Render, user: Message, prompt: str, special: Sequence[str]) -> tuple[str, str, str, bool]:
    """The token that ends an answer, what stands before it, what begins the reasoning, and whether the prompt has."""
    said = {"role": "assistant", "content": SAID}
    plain = render([user, said], False)
    start = _common(prompt, plain)
    end = _Ends(special, _following(render, plain, [user, said, user])).split(plain[plain.index(SAID) + len(SAID) :])[1]
    openings, reasoning = [plain[start : plain.index(SAID)].strip()], ""
    message = {"role": "assistant", "content": SAID, "reasoning_content": THOUGHT, "thinking": THOUGHT}
    thought = _tried(render, [user, message], False)
    if thought is not None and THOUGHT in thought:
        at = thought.index(THOUGHT)
        openings.append(thought[at + len(THOUGHT) : thought.index(SAID)].strip())
        reasoning = thought[_common(prompt, thought) : at].strip()
    is_reasoning = len(openings) > 1 and not reasoning and bool(openings[0])
    return end, min((one for one in openings if one), key=len, default=""), reasoning, is_reasoning


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


def _common(first: str, second: str) -> int:
    """Characters that two texts have in common at their beginning."""
    pairs = zip(first, second, strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))


def _last_word(text: str) -> str:
    return (text.split() or [""])[-1]


def _braces_before(text: str, place: int) -> list[int]:
    return [match.start() for match in re.finditer(r"\{", text[:place])][::-1][:8]

"""The chat protocol: tools as the model's own chat template announces them, calls as it was trained to write them.

Works with any chat model whose template knows tools; see `llds.rollout.protocol.chat_format` for how the format is
found. A trajectory stays what was sampled and appended: no sampled token is ever rendered again. What stands around a
tool's result comes from the template, the result itself is foreign text (`llds.rollout.observation`).
"""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from transformers import PreTrainedTokenizerBase

from llds.agent_tools import AgentTool
from llds.errors import ConfigurationError
from llds.rollout.protocol.base import ObservationText, Protocol, ShownPart, ToolAnnouncement
from llds.rollout.protocol.call_format import UnreadableCallError
from llds.rollout.protocol.chat_format import CALL_ID, ChatFormat, call_message, find_format
from llds.rollout.protocol.chat_template import TOOLS, ChatTemplate, told_of_tools
from llds.types import Action

_CALL_ID = re.compile(r"[A-Za-z0-9_\-]{1,64}")


class ChatToolProtocol(Protocol):
    """Calls are written as the tokenizer's chat template writes them; a message without a call is the answer.

    Needs `data.template.chat: true`. An action ends at the template's own tokens. A call that cannot be read gets a
    tool's message that says why; one whose arguments do not fit the tool's schema likewise.

    Args:
        template_kwargs: Further arguments of the chat template, such as ``{enable_thinking: false}``.
        answer_pattern: Regular expression whose first group is the answer within the last message; None takes all of
            it, without the reasoning.
        max_calls: Most calls of one action.
        tools_argument: Argument of the chat template that takes the tools, where it is not transformers' own
            (SmolLM3: ``xml_tools``).
        call_text: For a template that writes no calls: how the model does, with ``{name}`` and ``{arguments}``, which
            is JSON. None leaves it to the template.

    Raises:
        ConfigurationError: A value cannot work; from `attach`: the template has no tool calls that can be read.
    """

    def __init__(
        self,
        template_kwargs: dict[str, Any] | None = None,
        answer_pattern: str | None = None,
        max_calls: int = 8,
        tools_argument: str = TOOLS,
        call_text: str | None = None,
    ) -> None:
        if call_text is not None and not all(call_text.count(place) == 1 for place in ("{name}", "{arguments}")):
            raise ConfigurationError(
                f"Expected `protocol.call_text` to hold {{name}} and {{arguments}} once each, got {call_text!r}."
            )
        if max_calls < 1:
            raise ConfigurationError(f"Expected `protocol.max_calls` >= 1, got {max_calls}. Raise it.")
        self.template_kwargs = template_kwargs or {}
        self.answer_pattern = None if answer_pattern is None else _compiled(answer_pattern)
        self.max_calls = max_calls
        self.tools_argument, self.call_text = tools_argument, call_text
        self._format: ChatFormat | None = None
        self._frames: dict[str, tuple[str, str]] = {}
        self._ids: tuple[int, ...] = ()
        self._own: set[str] = set()
        self._brackets: re.Pattern[str] | None = None
        self._schemas: dict[str, Any] = {}
        self._attached: tuple[object, ...] = ()

    # Before the first action

    def announce(self, tools: Sequence[AgentTool]) -> ToolAnnouncement:
        """The tools' schemas, for the chat template."""
        return ToolAnnouncement(chat_arguments=told_of_tools(tools, self.tools_argument) | self.template_kwargs)

    def attach(self, tokenizer: PreTrainedTokenizerBase, tools: Sequence[AgentTool]) -> None:
        """Find the format out, try it, and say so once."""
        super().attach(tokenizer, tools)
        key = (tokenizer.chat_template, tuple(json.dumps(tool.schema) for tool in tools))
        if key == self._attached:
            return
        if not tokenizer.chat_template:
            raise ConfigurationError(
                "Expected a tokenizer with a chat template for llds.rollout.ChatToolProtocol (`model.protocol`), got "
                "one without. Use llds.rollout.TagProtocol, or give the tokenizer a chat template."
            )
        for name in self.template_kwargs:
            if name not in str(tokenizer.chat_template):
                rank_zero_warn(f"The chat template knows no `{name}` (`protocol.template_kwargs`): it has no effect.")
        self._schemas = {tool.name: tool.schema["function"]["parameters"] for tool in tools}
        template = ChatTemplate(tokenizer, self.announce(tools).chat_arguments, self.call_text or "")
        self._find(template, tokenizer, [tool.name for tool in tools])
        self._try(template, tools)
        self._attached = key

    def _find(self, template: ChatTemplate, tokenizer: PreTrainedTokenizerBase, names: Sequence[str]) -> None:
        added = {token.content: token for token in tokenizer.added_tokens_decoder.values()}
        special = [content for content, token in added.items() if token.special] + list(tokenizer.all_special_tokens)
        found = find_format(template.render, special, names[0] if names else "none")
        self._frames = {name: find_format(template.render, special, name).results for name in names}
        ends = sorted({found.calls.end, found.answer_end})
        self._ids = tuple(cast(list[int], tokenizer.convert_tokens_to_ids(ends)))
        self._own = {content for content in added if content in str(tokenizer.chat_template) or content in found.marks}
        self._format = replace(found, marks=found.marks | self._own)
        bracketed = sorted(mark[1:] for mark in self._format.marks if mark[0] in "<[")
        self._brackets = re.compile(rf"[<\[](?={'|'.join(map(re.escape, bracketed))})") if bracketed else None

    def _try(self, template: ChatTemplate, tools: Sequence[AgentTool]) -> None:
        """The self-test: tools are announced, and a call of each reads back as it was written."""
        names = [tool.name for tool in tools]
        prompt = template.render([{"role": "user", "content": "?"}], True)
        if missing := [name for name in names if name not in prompt]:
            raise ConfigurationError(
                "Expected a chat template that tells the model of its tools (`model.protocol`), got one that leaves "
                f"out {missing[0]!r}. Use a model whose template takes `{self.tools_argument}`, or "
                "llds.rollout.TagProtocol."
            )
        for name in names:
            arguments = {"text": 'a "quoted"\nline', "number": 1.5, "list": [1, None, {"x": True}]}
            messages = [{"role": "user", "content": "?"}, call_message([(name, arguments)])]
            written = template.render(messages, False).removeprefix(prompt).rstrip()
            end = self._known.calls.end  # which a template may leave to the message that follows
            action = self.parse(written.removesuffix(end) + end, names)
            if [(call.name, call.arguments) for call in action.calls] != [(name, arguments)]:
                raise ConfigurationError(
                    f"Expected a tool call that the chat template writes to read back (`model.protocol`), got "
                    f"{written[-200:]!r}, read as {action}. Subclass llds.rollout.Protocol for this model."
                )
        rank_zero_info(self._in_words(names))

    def _in_words(self, names: Sequence[str]) -> str:
        known, calls = self._known, self._known.calls
        behind = f" behind {known.answer_opening!r}" if known.answer_opening else ""
        return (
            f"Chat tools: {len(names)} announced ({', '.join(names)}); a call of each reads back. A call begins with "
            f"{calls.opening or '{'!r} and ends with {calls.end!r}, {1 if calls.is_single else self.max_calls} at most "
            f"to an action; an answer{behind} ends with {known.answer_end!r}. {len(self._own)} tokens of the template "
            "cannot come from a tool."
        )

    @property
    def _known(self) -> ChatFormat:
        assert self._format is not None  # noqa: S101 (attach comes first)
        return self._format

    # Actions

    def stop_strings(self, tool_names: Sequence[str]) -> list[str]:
        """None: an action ends with a token."""
        return []

    def stop_ids(self) -> tuple[int, ...]:
        """The tokens with which the template ends calls and answers."""
        return self._ids

    def control_marks(self, tool_names: Sequence[str]) -> set[str]:
        """What opens and closes a call, and the tokens that end a message."""
        return {*self._known.calls.marks, *self._ends}

    def parse(self, text: str, tool_names: Sequence[str]) -> Action:
        """Read a message."""
        ended = text.rstrip()
        end = next((end for end in self._ends if ended.endswith(end)), "")
        if not end:
            return Action("invalid", reason=f"The message does not end with {self._known.answer_end}: it was cut off.")
        body = ended[: -len(end)]
        if self._thinks_to_the_end(body):
            return Action("invalid", reason="The reasoning has no end, and nothing follows it.")
        mark, formats = self._known.answer_opening, self._known.calls
        behind = body.partition(mark)[2] if mark in body and mark and not formats.is_channel else body
        try:
            calls = tuple(formats.read(behind, self._schemas))
        except UnreadableCallError as error:
            return Action("invalid", reason=str(error))
        if not calls:
            return self._answer(self._behind_reasoning(body))
        if len(calls) > self.max_calls:
            return Action("invalid", reason=f"A message may hold {self.max_calls} calls at most.")
        if unknown := [call.name for call in calls if call.name not in tool_names]:
            there = ", ".join(tool_names) or "none"
            return Action("invalid", reason=f"There is no tool {unknown[0][:64]!r}. There are: {there}.")
        written = [json.dumps(dict(call.arguments), ensure_ascii=False) for call in calls]
        content = (
            written[0] if len(calls) == 1 else "\n".join(f"{c.name} {w}" for c, w in zip(calls, written, strict=True))
        )
        return Action("tool", calls[0].name, content, calls)

    @property
    def _ends(self) -> tuple[str, str]:
        return self._known.calls.end, self._known.answer_end

    def _thinks_to_the_end(self, body: str) -> bool:
        known, calls = self._known, self._known.calls
        has_begun = known.is_reasoning or (bool(known.reasoning_opening) and known.reasoning_opening in body)
        is_open = has_begun and known.answer_opening not in body
        return is_open and not (calls.is_channel and calls.opening in body)

    def _behind_reasoning(self, body: str) -> str:
        mark = self._known.answer_opening
        return body[body.rfind(mark) + len(mark) :] if mark and mark in body else body

    def _answer(self, said: str) -> Action:
        match = re.search(self.answer_pattern, said) if self.answer_pattern else None
        if self.answer_pattern and match is None:
            return Action(
                "invalid", reason="The message has neither a tool call nor an answer in the form that was asked for."
            )
        answer = said.strip() if match is None else (match[1] if match.re.groups else match[0]).strip()
        return Action("answer", "", answer) if answer else Action("invalid", reason="The message is empty.")

    # Observations

    def observe(self, body: str, tool_names: Sequence[str]) -> ObservationText:
        """A tool's message, after an action that has ended."""
        return self._results([body], list(tool_names[:1]), [""], self._known.calls.end)

    def observe_all(
        self, action: Action, action_text: str, bodies: Sequence[str], tool_names: Sequence[str]
    ) -> ObservationText:
        """A tool's message for each call."""
        calls = action.tool_calls
        return self._results(bodies, [call.name for call in calls], [call.call_id for call in calls], action_text)

    def correct(self, action_text: str, tool_names: Sequence[str], reason: str = "") -> ObservationText:
        """A tool's message that says what was wrong."""
        text = f"Error: {reason or 'The message could not be understood.'}"
        return self._results([text], list(tool_names[:1]), [""], action_text)

    def shortest_observations(self, tool_names: Sequence[str]) -> list[ObservationText]:
        """Also that of as many calls as an action may make, which the model decides."""
        count = 1 if self._known.calls.is_single else self.max_calls
        several = self._results([""] * count, list(tool_names[:1]), [""] * count, self._known.calls.end)
        return [*super().shortest_observations(tool_names), several]

    def _results(
        self, bodies: Sequence[str], names: Sequence[str], ids: Sequence[str], action_text: str
    ) -> ObservationText:
        found, name = self._known, names[0] if names else ""
        before, behind = self._frames.get(name, found.results)
        end = next((end for end in self._ends if action_text.rstrip().endswith(end)), "")
        opening = before.removeprefix(found.calls.end) if end else before
        between = found.between if found.between is not None else behind
        known = [one if _CALL_ID.fullmatch(one) else CALL_ID for one in ids]
        of_next = CALL_ID in before  # where an id stands before its result, the one between two is that of the second
        closings = [between.replace(CALL_ID, one) for one in (known[1:] if of_next else known[:-1])]
        closings.append(behind.replace(CALL_ID, known[-1]))
        texts = [self._body(body) for body in bodies]
        further = tuple(zip(texts[1:], closings[1:], strict=True))
        return ObservationText(opening.replace(CALL_ID, known[0]), texts[0], closings[0], further)

    def _body(self, text: str) -> str:
        defused = self.neutralize(text, ())
        return json.dumps(defused, ensure_ascii=False)[1:-1] if self._known.result_is_json else defused

    def neutralize(self, text: str, tool_names: Sequence[str]) -> str:
        """Replace the bracket of every mark of the template by ``&lt;`` or ``&#91;``."""
        if self._brackets is None:
            return text
        return self._brackets.sub(lambda one: "&lt;" if one[0] == "<" else "&#91;", text)

    def own_tokens(self, tool_names: Sequence[str]) -> set[str]:
        """Tokens that the template writes."""
        return self._own

    # For people and for training

    def answer_mark(self, action_text: str) -> str:
        """What ends the reasoning, where there is any."""
        mark = self._known.answer_opening
        return mark if mark in action_text else ""

    def shown(self, action: Action, text: str) -> list[ShownPart]:
        """The reasoning and what is said beside calls, then each call with its arguments, or the answer."""
        if action.kind == "invalid":
            return [ShownPart("invalid", text)]
        mark, opening = self._known.answer_opening, self._known.calls.opening
        end = text.rfind(mark) if mark and mark in text else 0
        if action.calls and opening:
            end = text.find(opening.split()[0], max(end, 0))
        thought = ShownPart("thought", self.shown_observation(text[: max(end, 0)]))
        if not action.calls:
            return [thought, ShownPart("answer", action.content)]
        calls = [ShownPart(call.name, json.dumps(dict(call.arguments), ensure_ascii=False)) for call in action.calls]
        return [thought, *calls]

    def shown_observation(self, text: str) -> str:
        """The text without the template's marks."""
        for mark in sorted(self._known.marks, key=len, reverse=True):
            text = text.replace(mark, "\n")
        return text


def _compiled(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ConfigurationError(
            f"Expected `protocol.answer_pattern` to be a regular expression, got {pattern!r}: {error}."
        ) from error
    return pattern

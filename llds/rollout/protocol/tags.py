"""The tag protocol: ``<search> a query </search>`` calls a tool, ``<answer> Oslo </answer>`` answers.

Works with any model, and with any number of tools that take one text each. Source: Search-R1 (arXiv 2503.09516); the
corrective message is worded anew.
"""

import re
from collections.abc import Sequence

from llds.agent_tools import AgentTool
from llds.errors import ConfigurationError
from llds.rollout.protocol.base import ObservationText, Protocol, ShownPart, ToolAnnouncement
from llds.types import Action

_TAG_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def _told(tool: AgentTool) -> str:
    names = list(tool.schema["function"]["parameters"].get("properties", {}))
    shown = ", ".join(f'"{name}": ...' for name in names)
    return f"{tool.description} As JSON: {{{shown}}}" if len(names) > 1 else tool.description


class TagProtocol(Protocol):
    """Actions end at ``</tool>`` or ``</answer>``; results come back between ``<information>`` tags.

    Args:
        answer_tag: Tag of the final answer.
        observation_tag: Tag around a tool's result.
        think_tag: Tag of the reasoning; only neutralised in observations, never required.
        say_why: Whether the observation after an action that cannot be read says what was wrong with its form, beside
            what would be right.
        max_correction_chars: Most characters of that reason.

    Raises:
        ConfigurationError: If a tag is not a plain word or two tags are equal.
    """

    def __init__(
        self,
        answer_tag: str = "answer",
        observation_tag: str = "information",
        think_tag: str = "think",
        max_correction_chars: int = 200,
        say_why: bool = False,
    ) -> None:
        tags = (answer_tag, observation_tag, think_tag)
        if len(set(tags)) < len(tags) or not all(_TAG_NAME.fullmatch(tag) for tag in tags):
            raise ConfigurationError(
                f"Expected `protocol` tags to be three different words of letters, digits and underscores, got {tags}. "
                "Rename the one that repeats or holds other characters."
            )
        self.answer_tag = answer_tag
        self.observation_tag = observation_tag
        self.think_tag = think_tag
        self.max_correction_chars = max_correction_chars
        self.say_why = say_why

    def announce(self, tools: Sequence[AgentTool]) -> ToolAnnouncement:
        """A line for each tool: its tags, its own description, and the names of its arguments if there are several."""
        return ToolAnnouncement("\n".join(f"<{one.name}> ... </{one.name}>: {_told(one)}" for one in tools))

    def check_tool_names(self, tool_names: Sequence[str]) -> None:
        """Raise a `ConfigurationError` unless the names can be tags beside the protocol's own."""
        reserved = {self.answer_tag, self.observation_tag, self.think_tag}
        for name in tool_names:
            if not _TAG_NAME.fullmatch(name) or name in reserved or list(tool_names).count(name) > 1:
                raise ConfigurationError(
                    f"Expected `agent_tools` names to be unique words other than {sorted(reserved)}, got {name!r}. "
                    "Give the tool another `name`."
                )

    def stop_strings(self, tool_names: Sequence[str]) -> list[str]:
        """The closing tags at which an action ends."""
        return [f"</{name}>" for name in (*tool_names, self.answer_tag)]

    def control_marks(self, tool_names: Sequence[str]) -> set[str]:
        """The opening and closing tags."""
        names = (*tool_names, self.answer_tag)
        return {f"<{name}>" for name in names} | {f"</{name}>" for name in names}

    def parse(self, text: str, tool_names: Sequence[str]) -> Action:
        """Read an action: the span that its first closing tag ends. Linear in the length of ``text``.

        An answer begins at the first opening tag, as Search-R1's scorer reads it (`llds.rewards.extract_answer`): of
        ``<answer><answer>Oslo</answer>`` it is ``<answer>Oslo``, which is wrong. A tool's argument begins at the last.

        Args:
            text: The decoded action, and nothing else.
            tool_names: Names of the tools that the agent has.
        """
        ends = [(text.find(f"</{name}>"), name) for name in (*tool_names, self.answer_tag)]
        found = [(end, name) for end, name in ends if end >= 0]
        if not found:
            return Action("invalid", reason="No tag is closed.")
        end, name = min(found)
        find = text.find if name == self.answer_tag else text.rfind
        start = find(f"<{name}>", 0, end)
        if start < 0:
            return Action("invalid", reason=f"</{name}> closes a tag that is not open.")
        content = text[start + len(name) + 2 : end].strip()
        return Action("answer", "", content) if name == self.answer_tag else Action("tool", name, content)

    def observe(self, body: str, tool_names: Sequence[str]) -> ObservationText:
        """Wrap a tool's result; tags of the protocol inside it lose their angle bracket."""
        return ObservationText(
            f"\n\n<{self.observation_tag}>", self.neutralize(body, tool_names), f"</{self.observation_tag}>\n\n"
        )

    def correct(self, action_text: str, tool_names: Sequence[str], reason: str = "") -> ObservationText:
        """The observation after an action that could not be served: says what the tags are for.

        Args:
            action_text: The decoded action; a tag that it left open is closed first.
            tool_names: Names of the tools that the agent has.
            reason: What is wrong with it.
        """
        calls = " ".join(f"To use {name}, I write <{name}> ... </{name}>." for name in tool_names)
        answer = f"To answer, I write <{self.answer_tag}> ... </{self.answer_tag}>."
        said = self.neutralize(reason[: self.max_correction_chars], tool_names) if self.say_why else ""
        opening = f"{self._close_open_tag(action_text, tool_names)}\nThat action cannot be carried out. "
        return ObservationText(opening, said, f"{' ' if said else ''}{calls}{' ' if calls else ''}{answer}\n")

    def neutralize(self, text: str, tool_names: Sequence[str]) -> str:
        """Replace the angle bracket of every tag of the protocol by ``&lt;``."""
        names = "|".join((*tool_names, self.answer_tag, self.observation_tag, self.think_tag))
        # Possessive quantifiers: a long run of white space behind a bracket is read once, not once per way to split it.
        return re.sub(rf"<(?=\s*+(?:/\s*+)?(?:{names})\s*+>)", "&lt;", text, flags=re.IGNORECASE)

    def own_tokens(self, tool_names: Sequence[str]) -> set[str]:
        """The tags, where they are tokens."""
        names = (*tool_names, self.answer_tag, self.observation_tag, self.think_tag)
        return {f"<{slash}{name}>" for name in names for slash in ("", "/")}

    def shortest_observations(self, tool_names: Sequence[str]) -> list[ObservationText]:
        """A result, and a correction of each tag that may have been left open."""
        corrections = [self.correct(f"<{name}>", tool_names) for name in (*tool_names, self.answer_tag)]
        return [self.observe("", tool_names), *corrections]

    def answer_mark(self, action_text: str) -> str:
        """The opening tag of the answer."""
        return f"<{self.answer_tag}>"

    def shown(self, action: Action, text: str) -> list[ShownPart]:
        """The thought before the tags, then what stands between them."""
        if action.kind == "invalid":
            return [ShownPart("invalid", text)]
        tag = self.answer_tag if action.kind == "answer" else action.name
        find = text.find if action.kind == "answer" else text.rfind
        before = text[: find(f"<{tag}>", 0, text.find(f"</{tag}>"))]
        thought = ShownPart("thought", self.shown_observation(before))
        return [thought, *super().shown(action, text)]

    def shown_observation(self, text: str) -> str:
        """The text without tags that only mark it as thought or as observation."""
        for name in (self.think_tag, self.observation_tag):
            text = text.replace(f"<{name}>", "\n").replace(f"</{name}>", "\n")
        return text

    def _close_open_tag(self, action_text: str, tool_names: Sequence[str]) -> str:
        for name in (*tool_names, self.answer_tag):
            if action_text.rfind(f"<{name}>") > action_text.rfind(f"</{name}>"):
                return f"</{name}>"
        return ""

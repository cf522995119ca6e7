"""The tag protocol: how text asks for a tool call, an answer, or nothing that can be understood.

Stands between the sampler, which yields tokens, and the agent tools, which take a string. It reads only text that the
policy sampled: observations are rendered here but never parsed, so a retrieved passage can forge neither a turn nor an
answer. Subclass `TagProtocol` to speak another format (JSON function calls, other tags).

Source: Search-R1 (arXiv 2503.09516); the corrective message is worded anew.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from llds.errors import ConfigurationError
from llds.types import Action

_TAG_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True)
class ObservationText:
    """An observation before it becomes tokens: only `body` may be cut at the limit.

    Attributes:
        opening: Text before the body, such as an opening tag.
        body: What the environment says.
        closing: Text after the body, such as a closing tag.
    """

    opening: str
    body: str
    closing: str


class TagProtocol:
    """Actions end at ``</tool>`` or ``</answer>``; results come back between ``<information>`` tags.

    Args:
        answer_tag: Tag of the final answer.
        observation_tag: Tag around a tool's result.
        think_tag: Tag of the reasoning; only neutralised in observations, never required.
        max_correction_chars: Length of the tool's own words that a corrective observation quotes, in characters.

    Raises:
        ConfigurationError: If a tag is not a plain word or two tags are equal.
    """

    def __init__(
        self,
        answer_tag: str = "answer",
        observation_tag: str = "information",
        think_tag: str = "think",
        max_correction_chars: int = 200,
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

    def parse(self, text: str, tool_names: Sequence[str]) -> Action:
        """Read an action: the span that its first closing tag ends. Linear in the length of ``text``.

        Args:
            text: The decoded action, and nothing else.
            tool_names: Names of the tools that the agent has.
        """
        ends = [(text.find(f"</{name}>"), name) for name in (*tool_names, self.answer_tag)]
        found = [(end, name) for end, name in ends if end >= 0]
        if not found:
            return Action("invalid")
        end, name = min(found)
        start = text.rfind(f"<{name}>", 0, end)
        if start < 0:
            return Action("invalid")
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
            reason: What the tool said was wrong with its argument.
        """
        calls = " ".join(f"To use {name}, I write <{name}> ... </{name}>." for name in tool_names)
        answer = f"To answer, I write <{self.answer_tag}> ... </{self.answer_tag}>."
        said = self.neutralize(reason[: self.max_correction_chars], tool_names)
        # Only what the tool says is foreign text: the tags that explain themselves must survive as tokens.
        opening = f"{self._close_open_tag(action_text, tool_names)}\nThat action cannot be carried out. "
        return ObservationText(opening, said, f"{' ' if said else ''}{calls}{' ' if calls else ''}{answer}\n")

    def neutralize(self, text: str, tool_names: Sequence[str]) -> str:
        """Replace the angle bracket of every tag of the protocol by ``&lt;``."""
        names = "|".join((*tool_names, self.answer_tag, self.observation_tag, self.think_tag))
        # Possessive quantifiers: a long run of white space behind a bracket is read once, not once per way to split it.
        return re.sub(rf"<(?=\s*+(?:/\s*+)?(?:{names})\s*+>)", "&lt;", text, flags=re.IGNORECASE)

    def _close_open_tag(self, action_text: str, tool_names: Sequence[str]) -> str:
        for name in (*tool_names, self.answer_tag):
            if action_text.rfind(f"<{name}>") > action_text.rfind(f"</{name}>"):
                return f"</{name}>"
        return ""

"""What a protocol is: the one thing that knows the format in which a model calls tools, answers, and is answered.

Stands between the sampler, which yields tokens, the agent tools, which take arguments, and the prompt template, which
tells the model of its tools. It reads only text that the policy sampled: observations are rendered here but never
parsed, so a retrieved passage can forge neither a turn nor an answer. To speak a format of your own, subclass
`Protocol` (or `TagProtocol`, if it is tags) and name the class under ``model.protocol``.

Left out on purpose: tokens of an observation, its limit and the guarantee that its body holds no special token
(`llds.rollout.observation`); the calls themselves (`llds.rollout.tool_calls`).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from llds.agent_tools import AgentTool
from llds.agent_tools.base import check_parameters
from llds.errors import ConfigurationError
from llds.types import Action


@dataclass(frozen=True)
class ObservationText:
    """An observation before it becomes tokens: only bodies may be cut at the limit.

    Attributes:
        opening: Text before the body, such as an opening tag.
        body: What the environment says.
        closing: Text after the body, such as a closing tag.
        further: Where an action made several calls: body and closing of the second, of the third, and so on.
    """

    opening: str
    body: str
    closing: str
    further: tuple[tuple[str, str], ...] = ()

    @property
    def parts(self) -> Iterator[tuple[str, str]]:
        """Each body with what follows it."""
        yield self.body, self.closing
        yield from self.further


@dataclass(frozen=True)
class ToolAnnouncement:
    """How a model is told of its tools.

    Attributes:
        text: Stands in the place of ``{tools}`` of the prompt template.
        chat_arguments: Arguments of the tokenizer's chat template, such as ``tools``.
    """

    text: str = ""
    chat_arguments: Mapping[str, Any] = field(default_factory=dict)


class ShownPart(NamedTuple):
    """A part of an action as a person sees it.

    Attributes:
        label: ``thought``, ``answer``, ``invalid``, or the name of a tool.
        text: What the policy wrote there.
    """

    label: str
    text: str


class Protocol(ABC):
    """A format. Methods get the names of the agent's tools, so that one object serves any number of agents."""

    def attach(self, tokenizer: PreTrainedTokenizerBase, tools: Sequence[AgentTool]) -> None:
        """Get to know tokenizer and tools, before anything else but `announce`; equal ones may come again.

        Raises:
            ConfigurationError: If the protocol cannot work with them.
        """
        self.check_tool_names([tool.name for tool in tools])
        for tool in tools:
            check_parameters(tool)

    def announce(self, tools: Sequence[AgentTool]) -> ToolAnnouncement:
        """How the model is told of the tools; by default not at all."""
        return ToolAnnouncement()

    def check_tool_names(self, tool_names: Sequence[str]) -> None:
        """Raise a `ConfigurationError` unless a model can call tools by these names: no two are equal."""
        if repeated := [name for name in tool_names if list(tool_names).count(name) > 1]:
            raise ConfigurationError(
                f"Expected `agent_tools` names to be unique, got {repeated[0]!r} {len(repeated)} times. Give one of "
                "those tools another `name`, or leave it out."
            )

    @abstractmethod
    def stop_strings(self, tool_names: Sequence[str]) -> list[str]:
        """Texts at whose end an action ends."""

    def stop_ids(self) -> tuple[int, ...]:
        """Tokens with which an action ends, beside those that end a turn of the model anyway."""
        return ()

    def control_marks(self, tool_names: Sequence[str]) -> set[str]:
        """Texts that open and close calls and answers; after `attach`. By default those at which an action ends."""
        return set(self.stop_strings(tool_names))

    @abstractmethod
    def parse(self, text: str, tool_names: Sequence[str]) -> Action:
        """Read an action; linear in the length of ``text``, and never an error.

        Args:
            text: The decoded action, special tokens included, and nothing else.
            tool_names: Names of the tools that the agent has.

        Returns:
            What it asks for; with the `reason` where that cannot be understood.
        """

    @abstractmethod
    def observe(self, body: str, tool_names: Sequence[str]) -> ObservationText:
        """Render the result of a call, or what a tool says of an argument that it refuses."""

    def observe_all(
        self, action: Action, action_text: str, bodies: Sequence[str], tool_names: Sequence[str]
    ) -> ObservationText:
        """Render the results of all calls of an action.

        Args:
            action: Its calls are in the order of the bodies.
            action_text: As it was decoded.
            bodies: One for each call.
            tool_names: Names of the tools that the agent has.
        """
        return self.observe(bodies[0], tool_names)

    @abstractmethod
    def correct(self, action_text: str, tool_names: Sequence[str], reason: str = "") -> ObservationText:
        """Render the observation after an action that could not be understood: what was wrong, what would be right.

        Args:
            action_text: The decoded action.
            tool_names: Names of the tools that the agent has.
            reason: Why, where that is known.
        """

    @abstractmethod
    def neutralize(self, text: str, tool_names: Sequence[str]) -> str:
        """Foreign text, changed so that nothing in it reads like the protocol's own marks."""

    def own_tokens(self, tool_names: Sequence[str]) -> set[str]:
        """Added tokens that only policy and protocol may write, though the tokenizer does not call them special."""
        return set()

    def shortest_observations(self, tool_names: Sequence[str]) -> list[ObservationText]:
        """One of each kind with an empty body, which must fit into the limit of an observation."""
        return [self.observe("", tool_names), self.correct("", tool_names)]

    @abstractmethod
    def answer_mark(self, action_text: str) -> str:
        """The text that opens the answer within an action that answers; empty where all of the action is the answer."""

    def shown(self, action: Action, text: str) -> list[ShownPart]:
        """An action as a person wants to see it.

        Args:
            action: As it was read.
            text: As it was decoded.
        """
        if action.kind == "invalid":
            return [ShownPart("invalid", text)]
        return [ShownPart("answer" if action.kind == "answer" else action.name, action.content)]

    def shown_observation(self, text: str) -> str:
        """A decoded observation without marks that only frame it."""
        return text

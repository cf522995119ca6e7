"""What an agent tool is: something that the policy calls while it answers a question.

The policy writes a call in the words of the protocol, the rollout collector runs the tool, and the text of its result
becomes the observation. To bring a tool of your own, subclass `AgentTool`, or write a typed function for
`FunctionTool`, and list it under ``agent_tools`` in the configuration (or return it from
``SearchAgentModule.configure_agent_tools``). Left out on purpose: the form of calls, limits on the length of
observations, deadlines and retries, which belong to the protocol and the collector.
"""

import inspect
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, get_type_hints

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from llds.errors import ConfigurationError, ToolInputError
from llds.types import ARGUMENT, ToolResult

RESERVED_NAMES = frozenset({"think", "answer", "information"})
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_MOST_CHARS = 300
"""Of what is wrong with an argument, in words."""


@dataclass(frozen=True)
class ToolContext:
    """Where a call comes from; given to a tool whose function has a parameter of this type.

    Attributes:
        row: The row of the data file that the question is from, every column by its name.
        trajectory: Number of the trajectory, unique among those that are under way.
        turn: Number of the action that calls, from 0.
        seed: Numbers that name this action among all that the run samples: equal ones in a repeated run.
    """

    row: Mapping[str, Any] = field(default_factory=dict)
    trajectory: int = 0
    turn: int = 0
    seed: tuple[int, ...] = ()


class AgentTool(ABC):
    """A tool that the policy can call.

    `run` takes one text, or, where `parameters` says so, arguments by name. It may also have a parameter of the type
    `ToolContext`.

    What a tool raises decides what happens:

    * `ToolInputError`: the model's mistake. The message becomes the observation, so write it for the model.
    * `ToolFailure`, `ConnectionError`, `TimeoutError`, `OSError`: infrastructure that may recover. The collector tries
      again within its bounds, then marks the trajectory failed. Nothing of it is ever trained on.
    * `BudgetError`: nothing more may be spent. The run ends, with its state saved.
    * Anything else: a bug. The trajectory fails at once.

    Many trajectories call one tool object at the same time on one event loop, so `run` must not block: put blocking
    code in ``asyncio.to_thread``.

    Attributes:
        name: What the model calls it by: lower-case letters, digits and underscores.
        description: For the model: what the tool does and what to give it.
        parameters: JSON schema of its arguments, an object with properties; None for a tool that takes one text.
        argument_name: What that one text is called, in a protocol whose arguments have names.
        statistics: What it counted since `begin_iteration`, for whoever reports it; None where it counts nothing.
        longest_s: Longest time, in seconds, after which a call ends by the tool's own limit; 0 where it has none.

    Example:
        ::

            class ClockTool(AgentTool):
                name = "clock"
                description = "Tells the time in a city. Write the city between the tags."

                async def run(self, argument: str) -> ToolResult:
                    if argument.strip() not in ZONES:
                        raise ToolInputError(f"No city named {argument.strip()!r}. Write its English name.")
                    return ToolResult(time_in(argument.strip()))
    """

    name: str
    description: str
    parameters: Mapping[str, Any] | None = None
    argument_name: str = ARGUMENT
    statistics: Any = None
    longest_s: float = 0.0

    @abstractmethod
    async def run(self, *args: Any, **kwargs: Any) -> ToolResult:
        """Do the work for one call: ``run(self, argument)``, or ``run(self, first, second)`` by `parameters`.

        Args:
            args: The one text that the model gave, exactly as it wrote it, where `parameters` is None.
            kwargs: The arguments otherwise; they are valid by the schema.

        Returns:
            The text that becomes the observation, with the ids of the passages behind it, if any.

        Raises:
            ToolInputError: The model called the tool in a way it cannot serve.
            ToolFailure: The tool could not do its work.
        """

    async def call(self, arguments: Mapping[str, Any] | str, context: ToolContext) -> ToolResult:
        """Check the arguments of a call, and run it.

        Args:
            arguments: By name, or one text.
            context: Where the call comes from.

        Raises:
            ToolInputError: They are not what the tool takes.
        """
        asked = context_parameter(type(self).run)
        extra = {asked: context} if asked else {}
        if self.parameters is None:
            return await self.run(self._text(arguments), **extra)
        return await self.run(**self._checked(arguments), **extra)

    @property
    def schema(self) -> dict[str, Any]:
        """The tool as chat templates want to have it described."""
        text = {"type": "string", "description": self.description}
        one = {"type": "object", "properties": {self.argument_name: text}, "required": [self.argument_name]}
        parameters = one if self.parameters is None else dict(self.parameters)
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}

    @cached_property
    def _validator(self) -> Draft202012Validator:
        return Draft202012Validator(self.schema["function"]["parameters"])

    def _text(self, arguments: Mapping[str, Any] | str) -> str:
        if isinstance(arguments, str):
            return arguments
        if set(arguments) == {ARGUMENT} and isinstance(arguments[ARGUMENT], str):
            return str(arguments[ARGUMENT])
        return str(self._checked(arguments)[self.argument_name])

    def _checked(self, arguments: Mapping[str, Any] | str) -> dict[str, Any]:
        """Arguments that fit the schema; one text is the only argument of a tool that has one, else JSON.

        Raises:
            ToolInputError: With what does not fit, for the model.
        """
        text = arguments if isinstance(arguments, str) else arguments.get(ARGUMENT)
        known = self.schema["function"]["parameters"].get("properties", {})
        if isinstance(text, str) and ARGUMENT not in known:
            arguments = self._from_text(text, known)
        assert isinstance(arguments, Mapping)  # noqa: S101 (a text was read above)
        if unknown := sorted(set(arguments) - set(known)):
            raise ToolInputError(f"{self.name} has no argument {unknown[0]!r}. It has: {', '.join(known) or 'none'}.")
        for error in self._validator.iter_errors(dict(arguments)):
            where = ".".join(str(part) for part in error.absolute_path)
            raise ToolInputError(f"{self.name}: {f'`{where}`: ' if where else ''}{error.message[:_MOST_CHARS]}.")
        return dict(arguments)

    def _from_text(self, text: str, known: Mapping[str, Any]) -> Mapping[str, Any]:
        if not known and not text.strip():
            return {}
        if len(known) == 1 and _may_be_text(next(iter(known.values()))):
            return {next(iter(known)): text}
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ToolInputError(f"{self.name} takes JSON with {', '.join(known)}. This is none: {error}.") from None
        if not isinstance(found, dict) and len(known) == 1:
            return {next(iter(known)): found}
        if not isinstance(found, dict):
            raise ToolInputError(f"{self.name} takes a JSON object with {', '.join(known)}.")
        return found

    def expand(self) -> list["AgentTool"]:
        """The tools that stand behind it, where it stands for several; by default itself."""
        return [self]

    def describe(self) -> dict[str, Any]:
        """What decides the results, as JSON-ready values, for evaluation cards: class, name, and settings of yours."""
        return {"class": f"{type(self).__module__}.{type(self).__qualname__}", "name": self.name}

    def begin_iteration(self) -> None:
        """Start a new rollout iteration; called before every collection. The place to drop caches. Does nothing."""
        return


def checked_tool_name(name: str, config_key: str) -> str:
    """Return the name if a model can write it as a tag.

    Args:
        name: The proposed name.
        config_key: Where the name was set, for the message.

    Raises:
        ConfigurationError: It is no tag, or the protocol uses it.
    """
    if not _NAME.fullmatch(name) or name in RESERVED_NAMES:
        raise ConfigurationError(
            f"Expected `{config_key}` to be lower-case letters, digits and underscores and none of "
            f"{sorted(RESERVED_NAMES)}, got {name!r}. The model writes it as <{name}>...</{name}>: choose another."
        )
    return name


def _may_be_text(schema: Mapping[str, Any] | bool) -> bool:
    if isinstance(schema, bool):  # of anything, or of nothing
        return schema
    kinds = schema.get("type", ())
    is_text = "string" in ([kinds] if isinstance(kinds, str) else kinds)
    return is_text or any(_may_be_text(one) for one in schema.get("anyOf", ()))


def check_parameters(tool: AgentTool) -> None:
    """Raise a `ConfigurationError` if what a tool gives as `parameters` is no JSON schema: no call would fit it."""
    try:
        Draft202012Validator.check_schema(tool.schema["function"]["parameters"])
    except SchemaError as error:
        raise ConfigurationError(
            f"Expected `parameters` of the tool {tool.name!r} to be a JSON schema, got one that is wrong at "
            f"`{error.json_path}`: {error.message[:_MOST_CHARS]}. Correct it."
        ) from error


@cache
def context_parameter(function: Any) -> str:
    """Name of a function's parameter of the type `ToolContext`; empty without one."""
    try:
        hints = get_type_hints(function)
    except (NameError, TypeError, AttributeError):  # names that cannot be resolved: then none is asked for
        hints = {}
    return next((name for name in inspect.signature(function).parameters if hints.get(name) is ToolContext), "")

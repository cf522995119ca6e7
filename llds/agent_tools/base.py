"""What an agent tool is: something that the policy calls while it answers a question.

The policy writes ``<name>argument</name>``, the rollout collector runs the tool, and the text of its result becomes
the observation. To bring a tool of your own, subclass `AgentTool` and list it under ``agent_tools`` in the
configuration (or return it from ``SearchAgentModule.configure_agent_tools``). Left out on purpose: tags, limits on the
length of observations, deadlines and retries, which belong to the protocol and the collector.
"""

import re
from abc import ABC, abstractmethod
from typing import Any

from llds.errors import ConfigurationError
from llds.types import ToolResult

RESERVED_NAMES = frozenset({"think", "answer", "information"})
_NAME = re.compile(r"[a-z][a-z0-9_]*")


class AgentTool(ABC):
    """A tool that the policy can call.

    What a tool raises decides what happens:

    * `ToolInputError`: the model's mistake. The message becomes the observation, so write it for the model.
    * `ToolFailure`, `ConnectionError`, `TimeoutError`, `OSError`: infrastructure that may recover. The collector tries
      again within its bounds, then marks the trajectory failed. Nothing of it is ever trained on.
    * Anything else: a bug. The trajectory fails at once.

    Many trajectories call one tool object at the same time on one event loop, so `run` must not block: put blocking
    code in ``asyncio.to_thread``.

    Attributes:
        name: The tag that the model writes, ``<name>...</name>``: lower-case letters, digits and underscores.
        description: One sentence for the model: what the tool does and what to write between the tags.
        statistics: What it counted since `begin_iteration`, for whoever reports it; None where it counts nothing.

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
    statistics: Any = None

    @abstractmethod
    async def run(self, argument: str) -> ToolResult:
        """Do the work for one call.

        Args:
            argument: The text between the tags, exactly as the model wrote it.

        Returns:
            The text that becomes the observation, with the ids of the passages behind it, if any.

        Raises:
            ToolInputError: The model called the tool in a way it cannot serve.
            ToolFailure: The tool could not do its work.
        """

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

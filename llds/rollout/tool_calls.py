"""Calling an agent tool: a deadline for each try, bounded retries with jitter, typed failures.

A model's mistake (`ToolInputError`) passes through and becomes an observation. Everything else ends as `ToolFailure`,
which marks the trajectory failed: text of an infrastructure error is never shown to the model or trained on.
"""

import asyncio
import random
from dataclasses import dataclass

from llds.agent_tools import AgentTool
from llds.errors import ConfigurationError, ToolFailure, ToolInputError
from llds.types import ToolResult

_jitter = random.Random()  # noqa: S311 (its own, so that a failure leaves the run's random numbers alone)


@dataclass(frozen=True)
class ToolCallPolicy:
    """How long and how often a tool is tried."""

    deadline_s: float = 30.0
    """Longest time that one try may take, in seconds."""
    max_retries: int = 2
    """Tries after the first that failed."""
    backoff_s: float = 0.5
    """Mean wait before the first retry, in seconds; doubles with each retry, times a random factor in [0.5, 1.5]."""

    def __post_init__(self) -> None:
        if self.deadline_s <= 0 or self.max_retries < 0 or self.backoff_s < 0:
            raise ConfigurationError(
                "Expected `rollout.tool_calls` to have deadline_s > 0, max_retries >= 0 and backoff_s >= 0, "
                f"got {self.deadline_s}, {self.max_retries} and {self.backoff_s}."
            )


async def call_tool(tool: AgentTool, argument: str, policy: ToolCallPolicy) -> ToolResult:
    """Call a tool until it answers.

    Raises:
        ToolInputError: If the argument is one that the tool cannot serve.
        ToolFailure: If every try failed, or the tool broke in a way that another try cannot mend.
        ConfigurationError: If the tool is set up wrongly; no trajectory could be served, so the run stops.
    """
    tries = policy.max_retries + 1
    last: Exception | None = None
    for attempt in range(tries):
        if attempt:
            await asyncio.sleep(policy.backoff_s * 2 ** (attempt - 1) * _jitter.uniform(0.5, 1.5))
        try:
            async with asyncio.timeout(policy.deadline_s):
                return _checked(tool, await tool.run(argument))
        except (ToolInputError, ConfigurationError):
            raise
        except (ToolFailure, OSError) as error:  # a deadline's TimeoutError is an OSError without a text
            last = error if str(error) else TimeoutError(f"no answer within {policy.deadline_s:g} s")
        except Exception as error:  # a tool is extension code: whatever it raises is a failure of that tool
            raise ToolFailure(f"agent tool `{tool.name}` raised {type(error).__name__}: {error}") from error
    raise ToolFailure(f"agent tool `{tool.name}` failed {tries} times, last: {type(last).__name__}: {last}") from last


def _checked(tool: AgentTool, result: ToolResult) -> ToolResult:
    if not isinstance(result, ToolResult):
        raise TypeError(f"Expected {type(tool).__name__}.run to return a ToolResult, got {type(result).__name__}.")
    return result

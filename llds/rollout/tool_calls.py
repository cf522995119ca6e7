"""Calling an agent tool: a deadline for each try, bounded retries with jitter, typed failures.

A model's mistake (`ToolInputError`) becomes an observation that says so. Everything else ends as `ToolFailure`,
which marks the trajectory failed: text of an infrastructure error is never shown to the model or trained on.
"""

import asyncio
import random
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

from llds.agent_tools import AgentTool, ToolContext
from llds.errors import BudgetError, ConfigurationError, ToolFailure, ToolInputError, said_by
from llds.files.rows import shorten
from llds.types import ToolCall, ToolResult

_jitter = random.Random()  # noqa: S311 (its own, so that a failure leaves the run's random numbers alone)


_NOWHERE = ToolContext()


@dataclass(frozen=True)
class ToolCallPolicy:
    """How long and how often a tool is tried."""

    deadline_s: float = 30.0
    """Longest time that one try may take, in seconds."""
    max_retries: int = 2
    """Tries after the first that failed."""
    backoff_s: float = 0.5
    """Mean wait before the first retry, in seconds; doubles with each retry, times a random factor in [0.5, 1.5]."""
    blocked_s: float = 120.0
    """Longest time, in seconds, that a tool may block all others, as ``time.sleep`` in its `run` does; then the run
    ends and names it."""

    def __post_init__(self) -> None:
        if self.deadline_s <= 0 or self.max_retries < 0 or self.backoff_s < 0 or self.blocked_s <= 0:
            raise ConfigurationError(
                "Expected `rollout.tool_calls` to have deadline_s > 0, max_retries >= 0, backoff_s >= 0 and "
                f"blocked_s > 0, got {self.deadline_s}, {self.max_retries}, {self.backoff_s} and {self.blocked_s}."
            )


@dataclass(frozen=True)
class CallOutcome:
    """What came of a call that was served or refused.

    Attributes:
        text: For the model.
        document_ids: Passages behind it.
        is_error: Whether the tool refused its arguments.
    """

    text: str
    document_ids: tuple[str, ...] = ()
    is_error: bool = False


def check_deadline(tools: Sequence[AgentTool], policy: ToolCallPolicy) -> None:
    """Refuse a tool whose own limit can never take effect: its mistakes would count as failures of infrastructure.

    Args:
        tools: That are called.
        policy: How they are called.

    Raises:
        ConfigurationError: If a tool's own limit is not below the deadline.
    """
    for tool in tools:
        if tool.longest_s >= policy.deadline_s:
            raise ConfigurationError(
                f"Expected `rollout.tool_calls.deadline_s` above the {tool.longest_s:g} s that a call of the tool "
                f"`{tool.name}` may take by its own limit, got {policy.deadline_s:g}. Raise the deadline, or lower the "
                "tool's limit."
            )


async def run_calls(
    tools: Mapping[str, AgentTool], calls: Sequence[ToolCall], policy: ToolCallPolicy, context: ToolContext
) -> list[CallOutcome]:
    """Run the calls of an action at once.

    Args:
        tools: By name.
        calls: Of tools that are there.
        policy: How long and how often each is tried.
        context: Where they come from.

    Returns:
        What came of each, in their order.

    Raises:
        ToolFailure: If one failed; all have ended then.
        ConfigurationError: If a tool is set up wrongly.
    """

    async def outcome(call: ToolCall) -> CallOutcome:
        try:
            result = await call_tool(tools[call.name], call.arguments, policy, context)
        except ToolInputError as error:
            return CallOutcome(f"Error: {error}", is_error=True)
        return CallOutcome(result.text, result.document_ids)

    if len(calls) == 1:
        return [await outcome(calls[0])]
    found = await asyncio.gather(*map(outcome, calls), return_exceptions=True)
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return [one for one in found if isinstance(one, CallOutcome)]


async def call_tool(
    tool: AgentTool, arguments: Mapping[str, Any] | str, policy: ToolCallPolicy, context: ToolContext = _NOWHERE
) -> ToolResult:
    """Call a tool until it answers.

    Args:
        tool: The tool.
        arguments: By name, or the one text that it takes.
        policy: How long and how often it is tried.
        context: Where the call comes from.

    Raises:
        ToolInputError: If the argument is one that the tool cannot serve.
        ToolFailure: If every try failed, or the tool broke in a way that another try cannot mend.
        ConfigurationError: If the tool is set up wrongly; no trajectory could be served, so the run stops.
        BudgetError: If the tool's budget is spent; likewise.
    """
    tries = policy.max_retries + 1
    last: Exception | None = None
    for attempt in range(tries):
        if attempt:
            await asyncio.sleep(policy.backoff_s * 2 ** (attempt - 1) * _jitter.uniform(0.5, 1.5))
        try:
            return _checked(tool, await _within(policy.deadline_s, _contained(tool, arguments, context)))
        except (ToolInputError, ConfigurationError, BudgetError):
            raise
        except (ToolFailure, OSError) as error:  # a deadline's TimeoutError is an OSError without a text
            last = TimeoutError(f"no answer within {policy.deadline_s:g} s") if error.args == () else error
        except Exception as error:  # a tool is extension code: whatever it raises is a failure of that tool
            raise ToolFailure(f"agent tool `{tool.name}` raised {said_by(error)}") from error
    assert last is not None  # noqa: S101 (there is at least one try)
    raise ToolFailure(f"agent tool `{tool.name}` failed {tries} times, last: {said_by(last)}") from last


async def _within(deadline_s: float, call: Coroutine[Any, Any, ToolResult]) -> ToolResult:
    """Run a call in a task of its own, which is left behind if it does not end when it is cancelled.

    Raises:
        TimeoutError: If it has no result by the deadline.
        ToolFailure: If it was cancelled from within.
    """
    task = asyncio.ensure_future(call)
    try:
        await asyncio.wait({task}, timeout=deadline_s)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if not task.done():
        task.cancel()
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # nobody waits for it any more
        raise TimeoutError
    if task.cancelled():
        raise ToolFailure("it was cancelled, though nobody here did so")
    error = task.exception()
    if error is not None and not isinstance(error, Exception):
        raise RuntimeError(f"{type(error).__name__}({error})") from error
    return task.result()


async def _contained(tool: AgentTool, arguments: Mapping[str, Any] | str, context: ToolContext) -> ToolResult:
    """Call a tool; what would end the event loop is an error of the tool like any other."""
    try:
        return await tool.call(arguments, context)
    except (SystemExit, KeyboardInterrupt) as error:  # Ctrl-C reaches the main thread, never a tool
        raise RuntimeError(f"{type(error).__name__}({error})") from error


def blocking_tool(frame: FrameType | None) -> str:
    """What a thread that runs the event loop is doing, in words: the tool whose call stands on its stack, and where.

    Args:
        frame: The innermost frame of the thread.
    """
    if frame is None:
        return "a thread that has ended"
    where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
    outer: FrameType | None = frame
    while outer is not None:
        if outer.f_code is _contained.__code__:
            return f"agent tool `{outer.f_locals['tool'].name}` (at {where})"
        outer = outer.f_back
    return f"{frame.f_code.co_name} (at {where})"


def _checked(tool: AgentTool, result: ToolResult) -> ToolResult:
    if not isinstance(result, ToolResult):
        raise TypeError(f"Expected {type(tool).__name__}.run to return a ToolResult, got {type(result).__name__}.")
    if not isinstance(result.text, str):
        raise TypeError(
            f"Expected {type(tool).__name__}.run to return a ToolResult with a text, got {type(result.text).__name__}."
        )
    ids = result.document_ids
    if not isinstance(ids, tuple | list) or not all(isinstance(one, str) for one in ids):
        raise TypeError(
            f"Expected {type(tool).__name__}.run to return document ids as a tuple of texts, got {shorten(ids)}."
        )
    return result

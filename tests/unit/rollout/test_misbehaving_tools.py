"""Tools that misbehave: none hangs the run or ends its loop, and none's failure looks like the model's."""

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from llds.agent_tools import AgentTool
from llds.errors import BlockedError, ToolFailure
from llds.rollout import ToolCallPolicy
from llds.rollout.tool_calls import blocking_tool, call_tool
from llds.samplers.event_loop import BackgroundLoop
from llds.types import ToolResult

QUICK = ToolCallPolicy(deadline_s=0.2, max_retries=1, backoff_s=0.0, blocked_s=0.4)


class Theirs(AgentTool):
    """Does what a function does."""

    name = "theirs"
    description = "A tool."

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function

    async def run(self, argument: str) -> ToolResult:
        """Do it, and wait for it where it can be waited for."""
        result = self.function()
        return await result if asyncio.iscoroutine(result) else result  # type: ignore[no-any-return]


async def be_cancelled() -> ToolResult:
    raise asyncio.CancelledError


async def cancel_itself() -> ToolResult:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(5)
    return ToolResult("x")


async def swallow_cancellation() -> ToolResult:
    for _ in range(20):
        try:
            await asyncio.sleep(0.5)
        except asyncio.CancelledError:
            continue
    return ToolResult("late")


async def stop_the_loop() -> ToolResult:
    asyncio.get_running_loop().stop()
    return ToolResult("stopped")


def interrupt() -> Any:
    raise KeyboardInterrupt


def exit_in_a_callback() -> Any:
    asyncio.get_running_loop().call_soon(sys.exit, 3)
    return ToolResult("left")


@pytest.fixture
def loop() -> Iterator[BackgroundLoop]:
    loop = BackgroundLoop(QUICK.blocked_s, blocking_tool)
    yield loop
    loop.close()


def answered(loop: BackgroundLoop, function: Callable[[], Any]) -> str:
    return loop.run(call_tool(Theirs(function), "x", QUICK)).text


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (be_cancelled, "cancelled"),
        (cancel_itself, "cancelled"),
        pytest.param(swallow_cancellation, "no answer within 0.2 s", marks=pytest.mark.slow),
        (lambda: asyncio.sleep(60), "no answer within 0.2 s"),
        (interrupt, "KeyboardInterrupt"),
        (lambda: sys.exit("bye"), r"SystemExit\(bye\)"),
        (lambda: None, "NoneType"),
        (lambda: b"bytes", "bytes"),
        (lambda: 1 / 0, "ZeroDivisionError"),
        (lambda: (_ for _ in ()).throw(GeneratorExit), "GeneratorExit"),
    ],
)
def test_a_tool_that_misbehaves_has_failed_and_others_go_on(
    loop: BackgroundLoop, function: Callable[[], Any], said: str
) -> None:
    with pytest.raises(ToolFailure, match=said):
        answered(loop, function)
    assert answered(loop, lambda: ToolResult("fine")) == "fine"


@pytest.mark.parametrize("function", [stop_the_loop, exit_in_a_callback])
def test_a_tool_cannot_end_the_event_loop(loop: BackgroundLoop, function: Callable[[], Any]) -> None:
    assert answered(loop, function) in ("stopped", "left")
    assert answered(loop, lambda: ToolResult("fine")) == "fine"


@pytest.mark.slow
def test_a_tool_that_blocks_all_others_is_named(loop: BackgroundLoop) -> None:
    with pytest.raises(BlockedError, match=r"agent tool `theirs` \(at .*blocked_s.*asyncio\.to_thread"):
        answered(loop, lambda: time.sleep(1.5))


def test_a_run_that_is_cancelled_cancels_its_calls(loop: BackgroundLoop) -> None:
    seen: list[str] = []

    async def note_cancellation() -> ToolResult:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        return ToolResult("x")

    future = loop.submit(call_tool(Theirs(note_cancellation), "x", ToolCallPolicy()))
    loop.run(asyncio.sleep(0.05))
    loop.cancel_all()
    assert future.cancelled()
    assert seen == ["cancelled"]

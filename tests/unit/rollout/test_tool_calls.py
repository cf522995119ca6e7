"""Deadlines, retries and the three kinds of failure of a tool call."""

import asyncio
import random
import threading
import time
from types import SimpleNamespace

import pytest

from llds.agent_tools import AgentTool
from llds.errors import ConfigurationError, ToolFailure, ToolInputError
from llds.rollout import ToolCallPolicy, tool_calls
from llds.rollout.tool_calls import call_tool
from llds.types import ToolResult

AT_ONCE = ToolCallPolicy(deadline_s=5.0, max_retries=2, backoff_s=0.0)


class Tool(AgentTool):
    """Raises the given errors one after another, then answers."""

    name = "search"
    description = "A tool."

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    async def run(self, argument: str) -> ToolResult:
        """Fail or answer."""
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return ToolResult(f"about {argument}")


def call(tool: AgentTool, policy: ToolCallPolicy = AT_ONCE) -> ToolResult:
    return asyncio.run(call_tool(tool, "Norway", policy))


@pytest.mark.parametrize("error", [ToolFailure("down"), ConnectionError("reset"), TimeoutError("slow"), OSError("io")])
def test_infrastructure_is_tried_again(error: Exception) -> None:
    tool = Tool(error, error)
    assert call(tool).text == "about Norway"
    assert tool.calls == 3


def test_after_the_last_try_the_failure_names_tool_tries_and_cause() -> None:
    tool = Tool(*[ConnectionError("refused")] * 3)
    with pytest.raises(ToolFailure, match=r"`search` failed 3 times, last: ConnectionError: refused") as raised:
        call(tool)
    assert tool.calls == 3
    assert isinstance(raised.value.__cause__, ConnectionError)


def test_without_retries_a_tool_is_tried_once() -> None:
    tool = Tool(ConnectionError("refused"))
    with pytest.raises(ToolFailure):
        call(tool, ToolCallPolicy(max_retries=0))
    assert tool.calls == 1


def test_a_mistake_of_the_model_passes_through_at_once() -> None:
    tool = Tool(ToolInputError("Write a query."))
    with pytest.raises(ToolInputError, match="Write a query"):
        call(tool)
    assert tool.calls == 1


def test_a_wrong_set_up_passes_through_at_once() -> None:
    tool = Tool(ConfigurationError("no retriever"))
    with pytest.raises(ConfigurationError, match="no retriever"):
        call(tool)
    assert tool.calls == 1


@pytest.mark.parametrize("bug", [KeyError("x"), ZeroDivisionError("y"), AttributeError("z")])
def test_a_bug_in_a_tool_is_not_tried_again(bug: Exception) -> None:
    tool = Tool(bug)
    with pytest.raises(ToolFailure, match=f"`search` raised {type(bug).__name__}"):
        call(tool)
    assert tool.calls == 1


def test_a_tool_that_returns_no_tool_result_says_so() -> None:
    class Careless(Tool):
        async def run(self, argument: str) -> ToolResult:
            return argument  # type: ignore[return-value]

    with pytest.raises(ToolFailure, match=r"Expected Careless.run to return a ToolResult, got str"):
        call(Careless())


def test_a_try_ends_at_its_deadline() -> None:
    class Endless(Tool):
        async def run(self, argument: str) -> ToolResult:
            self.calls += 1
            await asyncio.Event().wait()
            raise AssertionError

    tool = Endless()
    with pytest.raises(ToolFailure, match=r"failed 2 times, last: TimeoutError: no answer within 0.05 s"):
        call(tool, ToolCallPolicy(deadline_s=0.05, max_retries=1, backoff_s=0.0))
    assert tool.calls == 2


def test_the_wait_before_a_retry_grows_and_is_jittered(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def note(seconds: float) -> None:
        waits.append(seconds)

    # The module's own name for asyncio: other threads of the process go on sleeping.
    monkeypatch.setattr(tool_calls, "asyncio", SimpleNamespace(**vars(asyncio) | {"sleep": note}))
    state = random.getstate()
    for _ in range(20):
        call(Tool(ConnectionError(), ConnectionError()), ToolCallPolicy(max_retries=2, backoff_s=1.0))
    first, second = waits[::2], waits[1::2]
    assert all(0.5 <= wait <= 1.5 for wait in first)
    assert all(1.0 <= wait <= 3.0 for wait in second)
    assert len(set(waits)) == 40
    assert random.getstate() == state  # the run's own random numbers are left alone


def test_a_deadline_does_not_wait_for_a_thread_that_hangs() -> None:
    release = threading.Event()

    class Hanging(Tool):
        async def run(self, argument: str) -> ToolResult:
            await asyncio.to_thread(release.wait, 30)
            raise AssertionError

    async def timed() -> float:
        started = time.monotonic()
        with pytest.raises(ToolFailure):
            await call_tool(Hanging(), "x", ToolCallPolicy(deadline_s=0.05, max_retries=0))
        release.set()
        return time.monotonic() - started

    assert asyncio.run(timed()) < 10


@pytest.mark.parametrize("settings", [{"deadline_s": 0.0}, {"max_retries": -1}, {"backoff_s": -0.5}])
def test_bad_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=r"rollout\.tool_calls"):
        ToolCallPolicy(**settings)  # type: ignore[arg-type]

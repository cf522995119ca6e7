"""Tools and rewards of other people's code that misbehave: no hang, and nothing of theirs is trained on.

Each tool serves half of the trajectories of a collection beside one that works. Those that asked it must be marked
failed, or the run must end with an error that names it; the others must be answered, and all of it within a time.
"""

import asyncio
import logging
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from llds.agent_tools import AgentTool
from llds.errors import BlockedError, ConfigurationError
from llds.modules.policy.tokenizer import load_tokenizer
from llds.rewards import Reward
from llds.rollout import Collection, EpisodeLimits, RolloutCollector, TagProtocol, ToolCallPolicy
from llds.rollout.scoring import Scoring
from llds.samplers import Sampler, SampleRequest
from llds.types import Completion, Prompt, SamplingParams, ToolResult, Trajectory
from tools.bench.retrieval.retrieval_faults import POLICY
from tools.campaign.table import Outcome

CALLS = ToolCallPolicy(deadline_s=0.3, max_retries=1, backoff_s=0.0, blocked_s=1.0)
LIMITS = EpisodeLimits(action_tokens=32, observation_tokens=64, total_tokens=512, turns=2)
MOST_S = 30.0
"""Longest time of a collection until it counts as hanging; it should take one."""


class Odd(Exception):  # noqa: N818
    """An exception whose text cannot be had."""

    def __str__(self) -> str:
        """Fail."""
        raise RuntimeError("no text")


def _raise(error: BaseException) -> Any:
    raise error


async def _swallow() -> ToolResult:
    while True:
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            continue


async def _cancel_itself() -> ToolResult:
    task = asyncio.current_task()
    if task is not None:
        task.cancel()
    await asyncio.sleep(5)
    return ToolResult("x")


async def _shared_cancellation() -> ToolResult:
    shared = asyncio.ensure_future(asyncio.sleep(5))
    shared.cancel()
    await shared
    return ToolResult("x")


async def _stop_loop() -> ToolResult:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0)
    raise RuntimeError("stopped the loop")


async def _endless_thread() -> ToolResult:
    await asyncio.to_thread(time.sleep, 2)
    return ToolResult("x")


async def _raise_in_thread() -> ToolResult:
    await asyncio.to_thread(_raise, SystemExit(4))
    return ToolResult("x")


async def _task_group() -> ToolResult:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.to_thread(_raise, ValueError("inner")))
    return ToolResult("x")


async def _never_awaited() -> ToolResult:
    await asyncio.Event().wait()
    return ToolResult("x")


TOOLS: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "bytes": lambda: b"bytes",
    "a number": lambda: 7,
    "a string": lambda: "text",
    "ToolResult(None)": lambda: ToolResult(None),  # type: ignore[arg-type]
    "ToolResult(bytes)": lambda: ToolResult(b"x"),  # type: ignore[arg-type]
    "ToolResult(7)": lambda: ToolResult(7),  # type: ignore[arg-type]
    "ids that are no tuple": lambda: ToolResult("x", 3),  # type: ignore[arg-type]
    "ValueError": lambda: _raise(ValueError("x")),
    "an error without a text": lambda: _raise(Odd()),
    "OSError": lambda: _raise(OSError("down")),
    "MemoryError": lambda: _raise(MemoryError()),
    "RecursionError": lambda: _raise(RecursionError()),
    "StopIteration": lambda: _raise(StopIteration()),
    "GeneratorExit": lambda: _raise(GeneratorExit()),
    "sys.exit": lambda: sys.exit("bye"),
    "KeyboardInterrupt": lambda: _raise(KeyboardInterrupt()),
    "CancelledError": lambda: _raise(asyncio.CancelledError()),
    "cancels itself": _cancel_itself,
    "waits for what was cancelled": _shared_cancellation,
    "swallows its cancellation": _swallow,
    "stops the loop": _stop_loop,
    "never returns": _never_awaited,
    "a thread that hangs": _endless_thread,
    "a thread that exits": _raise_in_thread,
    "a group of errors": _task_group,
    "blocks the loop": lambda: time.sleep(2.5),
}
REWARDS: dict[str, Callable[[Trajectory], Any]] = {
    "None": lambda _: None,
    "a string": lambda _: "1.0",
    "a list": lambda _: [1.0],
    "a dictionary": lambda _: {},
    "bytes": lambda _: b"1",
    "NaN": lambda _: float("nan"),
    "infinity": lambda _: float("inf"),
    "a complex number": lambda _: 1j,
    "an object": lambda _: object(),
    "a coroutine": lambda _: asyncio.sleep(0),
    "ZeroDivisionError": lambda _: 1 / 0,
    "KeyError": lambda one: _raise(KeyError(one)),
    "RecursionError": lambda _: _raise(RecursionError()),
    "sys.exit": lambda _: sys.exit(3),
    "StopIteration": lambda _: _raise(StopIteration()),
    "an error without a text": lambda _: _raise(Odd()),
    "a number of 400 digits": lambda _: 10**400,
}


class Calls(Sampler):
    """Calls the tool that misbehaves in every other trajectory, the one that works in the others, then answers.

    Args:
        tokenizer: Encodes the actions.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._turns: Counter[int] = Counter()

    async def sample(self, request: SampleRequest) -> Completion:
        """Act."""
        self._turns[request.trajectory] += 1
        name = "theirs" if request.trajectory % 2 else "good"
        text = f"<{name}> x </{name}>" if self._turns[request.trajectory] == 1 else "<answer> y </answer>"
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        return Completion(ids, [0.0] * len(ids), "stop")

    def update_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Do nothing."""


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


class Good(AgentTool):
    """Works."""

    name = "good"
    description = "A tool."

    async def run(self, argument: str) -> ToolResult:
        """Answer."""
        await asyncio.sleep(0.01)
        return ToolResult("fine")


class TheirReward(Reward):
    """Gives what a function gives."""

    def __init__(self, function: Callable[[Trajectory], Any]) -> None:
        self.function = function

    def __call__(self, trajectory: Trajectory) -> float:
        """Give it."""
        return self.function(trajectory)  # type: ignore[no-any-return]


def tries(draw: random.Random, folder: Path) -> Iterator[Outcome]:
    """Every tool and every reward once."""
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # of tasks that do not end when they are cancelled
    for name, gives in REWARDS.items():
        note = _scores(gives)
        yield Outcome("rewards that misbehave", f"{name}: {note}" if note else "")
    for name, function in draw.sample(list(TOOLS.items()), len(TOOLS)):
        note = _collects(function)
        yield Outcome("tools that misbehave", f"{name}: {note}" if note else "")


def _collects(function: Callable[[], Any]) -> str:
    """Collect eight trajectories, every other with the tool; returns what went wrong."""
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(_collected(function)), daemon=True)
    thread.start()
    thread.join(MOST_S)
    return found[0] if found else "it hangs, or ends the thread"


def _collected(function: Callable[[], Any]) -> str:
    tokenizer = load_tokenizer(POLICY)
    tools = [Theirs(function), Good()]
    collector = RolloutCollector(Calls(tokenizer), tokenizer, TagProtocol(), tools, CALLS)
    prompt = Prompt("q", "?", ("y",), prompt_ids=tuple(tokenizer.encode("Question:", add_special_tokens=False)))
    try:
        trajectories = collector.collect([prompt], Collection(8, SamplingParams(), LIMITS, (0, 0)))
    except (BlockedError, ConfigurationError) as error:
        return "" if "theirs" in str(error) else f"an error without the tool's name: {error}"
    except BaseException as error:
        return f"{type(error).__name__} comes out: {error!r}"[:200]
    finally:
        collector.close()
    statuses = [one.status for one in trajectories]
    expected = ["failed" if number % 2 else "answered" for number in range(8)]
    return "" if statuses == expected else f"{statuses}"


def _scores(function: Callable[[Trajectory], Any]) -> str:
    trajectory = Trajectory(Prompt("q", "?", ("y",)), "g", 0, SamplingParams())
    try:
        Scoring(TheirReward(function)).score([trajectory], asyncio.run)
    except ConfigurationError as error:
        return "" if "TheirReward" in str(error) else f"an error without the class's name: {error}"
    except BaseException as error:
        return f"{type(error).__name__} comes out"
    return "" if trajectory.status == "failed" else f"{trajectory.reward!r} is trained on"

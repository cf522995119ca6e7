"""How requests become batches: rounds, waiting, errors and cancellation."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

import pytest

from llds.agent_tools import SearchTool
from llds.errors import SamplerError
from llds.retrieval import Passage, Retriever
from llds.rollout import ToolCallPolicy
from llds.rollout.tool_calls import call_tool
from llds.samplers import SampleRequest
from llds.samplers.transformers.queue import Answered, RequestQueue, Ticket
from llds.types import Completion, SamplingParams

Result = TypeVar("Result")


class Recorder:
    """Answers each request with its trajectory's number, and notes the batches.

    Args:
        before: Called with the number of each batch before it is answered.
    """

    def __init__(self, before: Callable[[int], None] = lambda number: None) -> None:
        self.before = before
        self.batches: list[list[int]] = []

    def __call__(self, tickets: Sequence[Ticket]) -> Iterator[list[Answered]]:
        """Answer a batch."""
        self.batches.append([ticket.request.trajectory for ticket in tickets])
        self.before(len(self.batches) - 1)
        yield [(ticket, Completion([ticket.request.trajectory], [0.0], "stop")) for ticket in tickets]


def request(trajectory: int, temperature: float = 1.0) -> SampleRequest:
    return SampleRequest(trajectory, [1], 1, (), SamplingParams(temperature), (trajectory,))


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    return asyncio.run(asyncio.wait_for(coroutine, timeout=20))


def test_a_round_is_ordered_by_trajectory_and_cut_into_batches() -> None:
    recorder = Recorder()
    queue = RequestQueue(recorder, max_batch_size=3, max_wait_s=0.0)

    async def submit() -> list[Completion]:
        return await asyncio.gather(*(queue.submit(request(number)) for number in (6, 2, 4, 0, 1, 3, 5)))

    completions = run(submit())
    assert [c.token_ids[0] for c in completions] == [6, 2, 4, 0, 1, 3, 5]
    assert recorder.batches == [[0, 1, 2], [3, 4, 5], [6]]


def test_requests_of_different_laws_run_apart() -> None:
    recorder = Recorder()
    queue = RequestQueue(recorder, max_batch_size=8, max_wait_s=0.0)

    async def submit() -> None:
        await asyncio.gather(*(queue.submit(request(number, temperature=1.0 + number % 2)) for number in range(4)))

    run(submit())
    assert recorder.batches == [[0, 2], [1, 3]]


def test_a_batch_waits_for_open_trajectories() -> None:
    recorder = Recorder()
    queue = RequestQueue(recorder, max_batch_size=8, max_wait_s=15.0)

    async def act(number: int) -> None:
        for turn in range(3):
            await asyncio.sleep(0.01 * ((number + turn) % 3))  # at a tool
            await queue.submit(request(number))
        queue.close_trajectory(number)

    async def episodes() -> None:
        for number in range(4):
            queue.open_trajectory(number)
        await asyncio.gather(*(act(number) for number in range(4)))

    run(episodes())
    assert recorder.batches == [[0, 1, 2, 3]] * 3


def test_trajectories_that_end_are_waited_for_no_longer() -> None:
    recorder = Recorder()
    queue = RequestQueue(recorder, max_batch_size=8, max_wait_s=15.0)

    async def act(number: int) -> None:
        for _ in range(number + 1):
            await queue.submit(request(number))
            await asyncio.sleep(0.01)
        queue.close_trajectory(number)

    async def episodes() -> None:
        for number in range(4):
            queue.open_trajectory(number)
        await asyncio.gather(*(act(number) for number in range(4)))

    run(episodes())
    assert recorder.batches == [[0, 1, 2, 3], [1, 2, 3], [2, 3], [3]]


def test_one_at_a_slow_tool_is_waited_for_once_and_then_left_behind() -> None:
    recorder = Recorder()
    queue = RequestQueue(recorder, max_batch_size=8, max_wait_s=0.3)
    slow_tool = asyncio.Event()

    async def slow() -> None:
        await slow_tool.wait()
        await queue.submit(request(0))
        queue.close_trajectory(0)

    async def quick() -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        for _ in range(10):
            await queue.submit(request(1))
        assert 0.3 <= loop.time() - started < 5 * 0.3  # one wait, not ten
        queue.close_trajectory(1)
        slow_tool.set()

    async def episodes() -> None:
        queue.open_trajectory(0)
        queue.open_trajectory(1)
        await asyncio.gather(slow(), quick())

    run(episodes())
    assert recorder.batches == [[1]] * 10 + [[0]]


def test_completions_are_handed_out_while_the_batch_goes_on() -> None:
    second_may_end = threading.Event()

    def generate(tickets: Sequence[Ticket]) -> Iterator[list[Answered]]:
        yield [(tickets[0], Completion([0], [0.0], "stop"))]
        assert second_may_end.wait(10)
        yield [(tickets[1], Completion([1], [0.0], "stop"))]

    queue = RequestQueue(generate, max_batch_size=8, max_wait_s=0.0)

    async def first() -> None:
        await queue.submit(request(0))
        second_may_end.set()  # only the first completion lets the batch go on

    async def both() -> None:
        await asyncio.gather(first(), queue.submit(request(1)))

    run(both())


class Calls(Retriever):
    """Finds nothing, and notes what it is asked."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def retrieve(self, queries: list[str], top_k: int) -> list[list[Passage]]:
        """Nothing for each query."""
        self.calls.append(list(queries))
        return [[] for _ in queries]

    def describe(self) -> dict[str, str]:
        """Nothing to say."""
        return {}


def test_searches_of_completions_that_end_together_are_one_call_of_the_retriever() -> None:
    retriever, tool = Calls(), SearchTool()
    tool.attach(retriever)
    queue = RequestQueue(Recorder(), max_batch_size=64, max_wait_s=0.0)

    async def act(number: int) -> None:
        await queue.submit(request(number))
        await call_tool(tool, f"query {number}", ToolCallPolicy())

    async def side_by_side() -> None:
        await asyncio.gather(*(act(number) for number in range(64)))

    run(side_by_side())
    assert retriever.calls == [[f"query {number}" for number in range(64)]]


def test_an_error_fails_its_batch_and_not_the_next() -> None:
    def fail_first(number: int) -> None:
        if number == 0:
            raise MemoryError("too large")

    queue = RequestQueue(Recorder(fail_first), max_batch_size=2, max_wait_s=0.0)

    async def submit() -> list[Completion | BaseException]:
        return await asyncio.gather(*(queue.submit(request(number)) for number in range(4)), return_exceptions=True)

    first, second, third, fourth = run(submit())
    for failed in (first, second):
        assert isinstance(failed, SamplerError)
        assert "MemoryError: too large" in str(failed)
        assert isinstance(failed.__cause__, MemoryError)
    assert [third, fourth] == [Completion([number], [0.0], "stop") for number in (2, 3)]


def test_requests_that_were_cancelled_take_no_part() -> None:
    recorder = Recorder()
    queue = RequestQueue(recorder, max_batch_size=8, max_wait_s=15.0)

    async def cancel_one() -> Completion:
        queue.open_trajectory(0)
        queue.open_trajectory(1)
        first = asyncio.create_task(queue.submit(request(0)))
        await asyncio.sleep(0.01)
        first.cancel()
        return await queue.submit(request(1))

    assert run(cancel_one()).token_ids == [1]
    assert recorder.batches == [[1]]


def test_a_queue_goes_on_in_another_loop_after_an_interrupted_one() -> None:
    recorder = Recorder()
    queue = RequestQueue(recorder, max_batch_size=8, max_wait_s=15.0)

    async def interrupted() -> None:
        queue.open_trajectory(0)
        queue.open_trajectory(1)
        await asyncio.wait_for(queue.submit(request(0)), timeout=0.05)

    with pytest.raises(TimeoutError):
        asyncio.run(interrupted())
    queue.close()
    assert run(queue.submit(request(5))).token_ids == [5]
    assert recorder.batches == [[5]]

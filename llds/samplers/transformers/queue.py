"""Requests of many trajectories become batches: the asyncio half of a sampler that generates in batches.

Requests that wait at the same moment form a round, in the order of their trajectories; a round runs in batches of a
bounded size, one at a time, in one thread, and hands out completions as soon as they are there. A round waits a
bounded time for trajectories that are at their tools, and for each of them once per tool call: one that is slow or
hangs holds back the others no longer than that.

Left out on purpose: what a batch does (`llds.samplers.transformers.sampler`).
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from llds.errors import SamplerError
from llds.samplers.base import SampleRequest
from llds.samplers.futures import errors_of_engine
from llds.types import Completion


@dataclass(frozen=True, eq=False)
class Ticket:
    """A request and what will become of it."""

    request: SampleRequest
    future: "asyncio.Future[Completion]"

    @property
    def is_abandoned(self) -> bool:
        """Whether nobody waits for it any more, or its episode was cancelled. May be asked from any thread."""
        return self.future.done()


Answered = tuple[Ticket, Completion]
"""A request with its completion."""


class RequestQueue:
    """Runs requests in batches.

    Args:
        generate: Answers a batch whose requests share sampling law and stop strings, some at a time, in any order; may
            leave out those that are abandoned. Runs in a thread of its own.
        max_batch_size: Most requests of a batch.
        max_wait_s: Longest time that a round waits for open trajectories that have no request in it, in seconds.

    Attributes:
        open: Trajectories that will send requests.
    """

    def __init__(
        self,
        generate: Callable[[Sequence[Ticket]], Iterator[list[Answered]]],
        max_batch_size: int,
        max_wait_s: float,
    ) -> None:
        self._generate = generate
        self.max_batch_size = max_batch_size
        self.max_wait_s = max_wait_s
        self.open: set[int] = set()
        self._awaited: set[int] = set()  # open, without a request, and not given up on
        self._pending: list[Ticket] = []
        self._changed = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self._thread: ThreadPoolExecutor | None = None

    def open_trajectory(self, trajectory: int) -> None:
        """Announce a trajectory, so that rounds wait for it."""
        self.open.add(trajectory)
        self._awaited.add(trajectory)

    def close_trajectory(self, trajectory: int) -> None:
        """Wait for the trajectory no longer."""
        self.open.discard(trajectory)
        self._awaited.discard(trajectory)
        self._changed.set()

    async def submit(self, request: SampleRequest) -> Completion:
        """Queue the request and return its completion.

        Raises:
            SamplerError: If the batch that it was in failed.
        """
        loop = asyncio.get_running_loop()
        ticket = Ticket(request, loop.create_future())
        self._pending.append(ticket)
        self._awaited.discard(request.trajectory)
        if self._runner is None or self._runner.done():
            self._changed = asyncio.Event()  # an event belongs to the loop that first waits for it
            self._runner = loop.create_task(self._run())
        self._changed.set()
        return await ticket.future

    def close(self) -> None:
        """Forget everything and end the thread; the loop that the requests came from must have been cancelled."""
        self.open, self._awaited, self._pending, self._runner = set(), set(), [], None
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None

    async def _run(self) -> None:
        while self._pending:
            await self._wait_for_others()
            present = [ticket for ticket in self._pending if not ticket.is_abandoned]
            self._pending = []
            for batch in self._batches(present):
                await self._serve(batch)

    async def _wait_for_others(self) -> None:
        try:
            async with asyncio.timeout(self.max_wait_s):
                while self._awaited:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            self._awaited.clear()  # later rounds do not wait for the same tool calls again

    def _batches(self, tickets: Sequence[Ticket]) -> list[list[Ticket]]:
        alike: dict[object, list[Ticket]] = {}
        for ticket in sorted(tickets, key=lambda ticket: ticket.request.trajectory):
            request = ticket.request
            alike.setdefault((request.sampling, request.stop_strings, request.stop_ids), []).append(ticket)
        size = self.max_batch_size
        return [group[start : start + size] for group in alike.values() for start in range(0, len(group), size)]

    async def _serve(self, batch: list[Ticket]) -> None:
        loop = asyncio.get_running_loop()
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="llds-sampler")

        def work() -> None:
            for answered in self._generate(batch):
                loop.call_soon_threadsafe(self._hand_out, answered)

        try:
            with errors_of_engine("the sampler failed on its batch"):
                await loop.run_in_executor(self._thread, work)
        except SamplerError as error:
            for ticket in batch:
                if not ticket.is_abandoned:
                    ticket.future.set_exception(error)

    def _hand_out(self, answered: Sequence[Answered]) -> None:
        for ticket, completion in answered:  # in one pass of the loop: their tool calls arrive together
            if not ticket.is_abandoned:
                ticket.future.set_result(completion)
                self._awaited |= {ticket.request.trajectory} & self.open

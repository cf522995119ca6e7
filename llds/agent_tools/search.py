"""The search tool: the policy's queries in, passages as text out.

Stands between the rollout collector, which calls it once per query, and a retriever, which is asked in batches. Left
out: the index itself (`llds.retrieval`), the tags around the passages and the limit on their length (the protocol and
the collector), and whether the passages were any good (`llds.metrics`).
"""

import asyncio
import math
import sys
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from llds.agent_tools.base import AgentTool, checked_tool_name
from llds.agent_tools.outage import Outage
from llds.errors import (
    ConfigurationError,
    RetrievalError,
    RetrieverUnavailableError,
    ToolFailure,
    ToolInputError,
)
from llds.retrieval.base import Passage, Retriever
from llds.types import ToolResult

_NOTHING_FOUND = "No passage was found."

_Call = asyncio.Task[dict[str, list[Passage]]]
"""A call of the retriever: the passages of all queries that it asks."""


@dataclass
class SearchStatistics:
    """What the search tool did since the iteration began.

    Attributes:
        queries: Valid queries that the policy asked.
        cached: Those of them that were not sent, because the same query was asked in this iteration before.
        remembered: Those of them that were not sent, because an earlier iteration's answer is remembered.
        empty: Those of them that found nothing.
        calls: Calls of the retriever.
        failed_calls: Those of them that failed.
        retriever_s: Seconds inside the retriever, summed over calls.
    """

    queries: int = 0
    cached: int = 0
    remembered: int = 0
    empty: int = 0
    calls: int = 0
    failed_calls: int = 0
    retriever_s: float = 0.0


@dataclass
class _Waiting:
    """Queries that wait for their call.

    Attributes:
        queries: In the order in which they came.
        is_full: Set when no more may join.
        call: The call, once it is made.
    """

    queries: list[str] = field(default_factory=list)
    is_full: asyncio.Event = field(default_factory=asyncio.Event)
    call: _Call = field(init=False)


class SearchTool(AgentTool):
    """Searches the corpus of the retriever that the retrieval callback attaches.

    Queries that arrive in the same pass of the event loop, or within `linger_s`, or while `max_calls` calls are under
    way, go to the retriever in one call, in a worker thread. Within
    an iteration the same query is asked once, and the answers that were used last are remembered in the next ones;
    failed calls are not, so that a retry asks again.

    Args:
        top_k: Number of passages per query.
        name: The tag that the model writes.
        max_query_chars: Longest query in characters; a longer one is the model's mistake.
        cache_size: Queries whose answers are remembered from one iteration to the next, about 2 kB each; 0 forgets them
            all, for a retriever whose answers change.
        linger_s: Time for which a query waits for others to join its call, in seconds; 0 does not wait.
        max_batch: Most queries of one call.
        max_calls: Most calls at once; None sets no limit. For an index whose scan costs the same for one query as for
            many: 1 or 2, and what arrives during a scan shares the next.

    Attributes:
        retriever: What is asked; None until `attach`.
        statistics: Counts since the iteration began.

    Raises:
        ConfigurationError: A setting is out of its range; or, from `run`, no retriever is attached.
    """

    description = "Finds passages. Write a short question or keywords."
    argument_name = "query"

    def __init__(
        self,
        top_k: int = 3,
        name: str = "search",
        max_query_chars: int = 1000,
        cache_size: int = 10_000,
        linger_s: float = 0.0,
        max_batch: int = 512,
        max_calls: int | None = None,
    ) -> None:
        if top_k < 1:
            raise ConfigurationError(f"Expected `top_k` of the search tool >= 1, got {top_k}. Raise it.")
        if max_query_chars < 1:
            raise ConfigurationError(f"Expected `max_query_chars` >= 1, got {max_query_chars}. Raise it.")
        if cache_size < 0:
            raise ConfigurationError(f"Expected `cache_size` of the search tool >= 0, got {cache_size}.")
        if not 0 <= linger_s < math.inf or max_batch < 1 or (max_calls is not None and max_calls < 1):
            raise ConfigurationError(
                "Expected the search tool to have linger_s >= 0, max_batch >= 1 and max_calls >= 1 or null, got "
                f"{linger_s}, {max_batch} and {max_calls}."
            )
        self.top_k = top_k
        self.name = checked_tool_name(name, "name")
        self.max_query_chars = max_query_chars
        self.cache_size = cache_size
        self.linger_s = linger_s
        self.max_batch = max_batch
        self.max_calls = max_calls
        self.retriever: Retriever | None = None
        self.statistics = SearchStatistics()
        self._answers: OrderedDict[str, list[Passage]] = OrderedDict()  # the one used last is last
        self._asked: set[str] = set()  # in this iteration
        self._outage = Outage(0.0)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: _Waiting | None = None  # what the next call will ask
        self._slots = asyncio.Semaphore(max_calls or sys.maxsize)
        self._in_flight: dict[str, _Call] = {}  # the calls of queries that wait or were asked

    def attach(self, retriever: Retriever, patience_s: float = 0.0) -> None:
        """Use this retriever from now on; it must be open.

        Args:
            retriever: What is asked.
            patience_s: Longest time that searches wait for a server that does not answer, in seconds.
        """
        self.retriever = retriever
        self._outage = Outage(patience_s)
        self._answers, self._asked = OrderedDict(), set()

    def describe(self) -> dict[str, Any]:
        """Class, name, and the two settings that decide what comes back."""
        return super().describe() | {"top_k": self.top_k, "max_query_chars": self.max_query_chars}

    def begin_iteration(self) -> None:
        """Forget the counts of the last iteration, and all answers but those that were used last."""
        kept = list(self._answers.items())[-self.cache_size :] if self.cache_size else []
        self._answers, self._asked = OrderedDict(kept), set()
        self.statistics = SearchStatistics()

    async def run(self, argument: str) -> ToolResult:
        """Return the passages for a query, best first, one a line.

        Raises:
            ToolInputError: The query is empty or too long.
            ToolFailure: The retriever failed or its answer cannot be used.
            ConfigurationError: No retriever is attached.
        """
        query = self._checked_query(argument)
        if self.retriever is None:
            raise ConfigurationError(
                f"Expected a retriever attached to the agent tool `{self.name}`, got none. Add "
                "`llds.callbacks.RetrievalCallback` to `trainer.callbacks`, or call attach()."
            )
        statistics = self.statistics  # of the iteration that asked, whatever begins meanwhile
        passages = await self._passages(query)
        statistics.empty += not passages
        return ToolResult(format_passages(passages), tuple(passage.document_id for passage in passages))

    def _checked_query(self, argument: str) -> str:
        query = " ".join(argument.split())
        if not query:
            raise ToolInputError("The search query is empty. Write what you are looking for, like: capital of France.")
        if len(query) > self.max_query_chars:
            raise ToolInputError(
                f"The search query has {len(query)} characters, more than {self.max_query_chars}. Write a shorter one."
            )
        return query

    async def _passages(self, query: str) -> list[Passage]:
        self._enter_loop()
        self.statistics.queries += 1
        answer = self._answers.get(query)
        if query in self._asked and (answer is not None or query in self._in_flight):
            self.statistics.cached += 1
        elif answer is not None:
            self.statistics.remembered += 1
        self._asked.add(query)
        if answer is not None:
            self._answers.move_to_end(query)
            return answer
        if query not in self._in_flight:
            self._enqueue(query)
        # Shielded: a caller that is cancelled (its deadline) must not take the answer from the others.
        return (await asyncio.shield(self._in_flight[query]))[query]

    def _enter_loop(self) -> None:
        """Drop what belongs to another event loop: a collection that was interrupted leaves futures behind."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            self._waiting, self._in_flight = None, {}
            self._slots = asyncio.Semaphore(self.max_calls or sys.maxsize)

    def _enqueue(self, query: str) -> None:
        if self._waiting is None:
            self._waiting = _Waiting()
            # A new task starts after everything that is ready in this pass has run, and so has added its query.
            self._waiting.call = self._begin_call(self._waiting)
        waiting = self._waiting
        waiting.queries.append(query)
        self._in_flight[query] = waiting.call
        if len(waiting.queries) == self.max_batch:
            waiting.is_full.set()
            self._waiting = None

    def _begin_call(self, waiting: "_Waiting") -> "_Call":
        # Those of the iteration and the loop that ask, whatever begins meanwhile.
        answers, in_flight = self._answers, self._in_flight

        def note(call: _Call) -> None:
            for query in waiting.queries:
                in_flight.pop(query, None)
            if not call.cancelled() and call.exception() is None:
                answers.update(call.result())

        call = asyncio.create_task(self._ask_waiting(waiting))
        call.add_done_callback(note)  # the first, so that it has run when those who wait for the call go on
        return call

    async def _ask_waiting(self, waiting: "_Waiting") -> dict[str, list[Passage]]:
        statistics = self.statistics  # of the iteration that asks, whatever begins while it waits
        if self.linger_s:
            with suppress(TimeoutError):
                await asyncio.wait_for(waiting.is_full.wait(), self.linger_s)
        async with self._slots:  # others may join until there is one
            if self._waiting is waiting:
                self._waiting = None
            return dict(zip(waiting.queries, await self._ask(waiting.queries, statistics), strict=True))

    async def _ask(self, queries: list[str], statistics: SearchStatistics) -> list[list[Passage]]:
        """The passages of queries, when the retriever is there again."""
        while True:
            try:
                reply = await self._try(queries, statistics)
            except RetrieverUnavailableError as error:
                if (wait_s := self._outage.wait_s(error)) is None:
                    raise ToolFailure(f"The retriever failed: {error}") from error
                await asyncio.sleep(wait_s)
            except RetrievalError as error:
                raise ToolFailure(f"The retriever failed: {error}") from error
            else:
                self._outage.ended()
                return reply

    async def _try(self, queries: list[str], statistics: SearchStatistics) -> list[list[Passage]]:
        retriever = self.retriever
        assert retriever is not None  # noqa: S101 (run has checked it)
        statistics.calls += 1
        start = time.monotonic()
        try:
            reply = await asyncio.to_thread(retriever.retrieve, queries, self.top_k)
            self._check_reply(reply, queries)
        except BaseException:
            statistics.failed_calls += 1
            raise
        finally:
            statistics.retriever_s += time.monotonic() - start
        return reply

    def _check_reply(self, reply: list[list[Passage]], queries: list[str]) -> None:
        if len(reply) != len(queries) or any(len(passages) > self.top_k for passages in reply):
            sizes = [len(passages) for passages in reply]
            raise RetrievalError(
                f"Expected {len(queries)} lists of at most {self.top_k} passages, got lists of {sizes[:8]}. "
                f"Correct {type(self.retriever).__name__}.retrieve."
            )


def format_passages(passages: list[Passage]) -> str:
    """Return the passages as the policy reads them: ``Doc 1(Title: "...") text``, one a line."""
    if not passages:
        return _NOTHING_FOUND
    return "\n".join(
        f'Doc {number}(Title: "{_one_line(passage.title)}") {_one_line(passage.text)}'
        for number, passage in enumerate(passages, start=1)
    )


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())

"""Requests of many connections, asked of the retriever together, in the order in which they came.

A retriever embeds and searches many queries in little more time than one. Asked for each request in a thread of its
own, the threads take turns at random, and some requests wait many times longer than others.
"""

import asyncio
from collections import deque
from dataclasses import dataclass

from llds.errors import RetrievalError
from llds.retrieval.base import Passage, Retriever

_CALLS = 2
"""At a time: a call that waits for something, such as another server, does not keep all others."""
_MOST_QUERIES = 128
"""Of a call; a request with more is asked alone."""

_Results = list[list[Passage]]


@dataclass(frozen=True)
class _Request:
    queries: list[str]
    top_k: int
    answer: "asyncio.Future[_Results]"


class BatchingRetriever:
    """Asks a retriever for all requests that wait.

    Args:
        retriever: An open retriever.
    """

    def __init__(self, retriever: Retriever) -> None:
        self._retriever = retriever
        self._waiting: deque[_Request] = deque()
        self._calls: set[asyncio.Task[None]] = set()

    async def retrieve(self, queries: list[str], top_k: int) -> _Results:
        """Return the passages that fit each query, as `Retriever.retrieve` does.

        Args:
            queries: The queries as text.
            top_k: Number of passages per query.

        Raises:
            RetrievalError: The retriever failed on this very request.
        """
        request = _Request(queries, top_k, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        if len(self._calls) < _CALLS:
            call = asyncio.create_task(self._serve())
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
        return await request.answer

    async def _serve(self) -> None:
        """Ask until nobody waits."""
        while self._waiting:
            requests = self._take()
            try:
                await self._answer(requests)
            except Exception as error:
                if len(requests) == 1:
                    _refuse(requests[0], error)
                    continue
                for request in requests:  # one of them may be to blame
                    try:
                        await self._answer([request])
                    except Exception as own:
                        _refuse(request, own)

    def _take(self) -> list[_Request]:
        """The requests that have waited longest, as far as they can be asked together."""
        taken = [self._waiting.popleft()]
        count = len(taken[0].queries)
        while self._waiting and self._waiting[0].top_k == taken[0].top_k:
            count += len(self._waiting[0].queries)
            if count > _MOST_QUERIES:
                break
            taken.append(self._waiting.popleft())
        return taken

    async def _answer(self, requests: list[_Request]) -> None:
        queries = [query for request in requests for query in request.queries]
        results = await asyncio.to_thread(self._retriever.retrieve, queries, requests[0].top_k)
        if len(results) != len(queries):
            raise RetrievalError(f"Expected {len(queries)} lists of passages, got {len(results)}.")
        start = 0
        for request in requests:
            end = start + len(request.queries)
            if not request.answer.done():  # its connection may be gone
                request.answer.set_result(results[start:end])
            start = end


def _refuse(request: _Request, error: Exception) -> None:
    if not request.answer.done():
        request.answer.set_exception(error)

"""Web search: SearXNG, Serper or Tavily behind one tool, with a cache on disk and a budget of requests.

What a query brought is kept in a file, so that the runs after the first ask little. Left out on purpose: the pages
behind the results; a tool of one's own reads them.
"""

import asyncio
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import aiohttp

from llds.agent_tools.base import AgentTool, checked_tool_name
from llds.agent_tools.http import read_text
from llds.agent_tools.search import format_passages
from llds.agent_tools.web_cache import WebCache
from llds.errors import BudgetError, ConfigurationError, ToolFailure, ToolInputError
from llds.retrieval.base import Passage
from llds.types import ToolResult

_REFUSALS, _SPENT = {401, 403, 404, 405}, {402, 432, 433}


@dataclass(frozen=True)
class _Service:
    """How a service is asked, and what it answers; from its public documentation.

    Attributes:
        url: Public address; empty for one that everybody runs.
        key_variable: Environment variable of its key; empty without one.
        header: Makes the header that carries the key.
        body: Makes the JSON of a request from query and number of results; None puts the query into the address.
        results: Field of the reply with the results.
        link: Field of a result with its address.
        text: Field of a result with its text.
    """

    url: str
    key_variable: str
    header: Callable[[str], dict[str, str]]
    body: Callable[[str, int], dict[str, Any]] | None
    results: str
    link: str
    text: str


_SERVICES: Mapping[str, _Service] = {
    "searxng": _Service("", "", lambda _: {}, None, "results", "url", "content"),
    "serper": _Service(
        "https://google.serper.dev", "SERPER_API_KEY", lambda key: {"X-API-KEY": key},
        lambda query, count: {"q": query, "num": count}, "organic", "link", "snippet",
    ),
    "tavily": _Service(
        "https://api.tavily.com", "TAVILY_API_KEY", lambda key: {"Authorization": f"Bearer {key}"},
        lambda query, count: {"query": query, "max_results": count}, "results", "url", "content",
    ),
}  # fmt: skip


class WebSearchTool(AgentTool):
    """Searches the web.

    Ids of what is found are addresses, so that rewards and metrics of gold passages work with them. The same query is
    asked once, as long as the cache is there. A service that cannot be reached, or is busy, is infrastructure; one that
    refuses the key, or has no credit left, ends the run.

    Args:
        service: Whose API is spoken.
        url: Its address; None is the public one. SearXNG has none: yours, with ``json`` among ``search.formats``.
        top_k: Most results of a query.
        cache: File of results, an SQLite database that any number of runs of this machine share; None keeps them for
            this run.
        budget: Most requests ever made for this cache, retries included; None sets no limit. With it spent the run
            ends, with its state saved: raise it and resume.
        name: What the model calls it by.
        max_query_chars: Longest query in characters; a longer one is the model's mistake.

    Raises:
        ConfigurationError: A setting is out of its range; or, from a call, there is no key, or it is refused.
    """

    description = "Searches the web. Write a short question or keywords."
    argument_name = "query"

    def __init__(
        self,
        service: Literal["searxng", "serper", "tavily"],
        url: str | None = None,
        top_k: int = 3,
        cache: str | None = None,
        budget: int | None = 10_000,
        name: str = "web_search",
        max_query_chars: int = 400,
    ) -> None:
        self._service, self.service = _SERVICES[service], service
        if not (url or self._service.url):
            raise ConfigurationError(f"Expected the `url` of your {service} for the web search tool, got none. Set it.")
        if top_k < 1 or max_query_chars < 1 or (budget is not None and budget < 0):
            raise ConfigurationError(
                "Expected the web search tool to have top_k >= 1, max_query_chars >= 1 and budget >= 0 or null, got "
                f"{top_k}, {max_query_chars} and {budget}."
            )
        self.url = (url or self._service.url).rstrip("/")
        self.top_k, self.max_query_chars, self.budget = top_k, max_query_chars, budget
        self.name = checked_tool_name(name, "name")
        self.cache = WebCache(cache)
        self._asking: dict[str, asyncio.Task[list[Passage]]] = {}

    def describe(self) -> dict[str, Any]:
        """Class, name, service and number of results."""
        return super().describe() | {"service": self.service, "url": self.url, "top_k": self.top_k}

    def begin_iteration(self) -> None:
        """Forget questions that an interrupted collection left open."""
        self._asking = {}

    async def run(self, argument: str) -> ToolResult:
        """Return what was found, best first, one a line.

        Raises:
            ToolInputError: The query is empty or too long.
            ToolFailure: The service cannot be reached, is busy, or its answer cannot be used.
            BudgetError: No request may be made any more.
            ConfigurationError: The service refuses for good.
        """
        query = " ".join(argument.split())
        if not 0 < len(query) <= self.max_query_chars:
            raise ToolInputError(
                f"A query has 1 to {self.max_query_chars} characters, yours has {len(query)}. Write a few keywords."
            )
        key = json.dumps([self.service, self.url, self.top_k, query])
        found = self.cache.read(key)
        passages = [Passage(*one) for one in found] if found is not None else await self._asked_once(key, query)
        return ToolResult(format_passages(passages), tuple(passage.document_id for passage in passages))

    async def _asked_once(self, key: str, query: str) -> list[Passage]:
        if key not in self._asking:
            task = asyncio.create_task(self._ask(key, query))
            self._asking[key] = task
            task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # whether or not one waits
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(self._asking[key])

    async def _ask(self, key: str, query: str) -> list[Passage]:
        headers = self._service.header(self._key())
        if not self.cache.spend(math.inf if self.budget is None else self.budget):
            raise BudgetError(
                f"Expected at most {self.budget} requests to {self.url} (`budget` of the web search tool), and all are "
                "made. What was found stays in `cache`: raise the budget, and resume."
            )
        passages = self._read(*await self._reply(query, headers))
        self.cache.write(key, [(one.document_id, one.title, one.text) for one in passages])
        return passages

    def _key(self) -> str:
        variable = self._service.key_variable
        key = os.environ.get(variable, "") if variable else ""
        if variable and not key:
            raise ConfigurationError(f"Expected a key for {self.url} in ${variable}, got none. Set it.")
        return key

    async def _reply(self, query: str, headers: dict[str, str]) -> tuple[int, str]:
        body = self._service.body
        words: dict[str, Any] = (
            {"params": {"q": query, "format": "json"}} if body is None else {"json": body(query, self.top_k)}
        )
        try:
            async with (
                aiohttp.ClientSession(headers=headers) as session,
                session.request("GET" if body is None else "POST", f"{self.url}/search", **words) as reply,
            ):
                return reply.status, await read_text(reply)
        except aiohttp.ClientError as error:
            raise ToolFailure(f"{self.url} cannot be asked: {error}") from error

    def _read(self, status: int, text: str) -> list[Passage]:
        said = f"{self.url} answered with status {status}: {text[:120]}"
        if status in _SPENT or (status == 400 and "credit" in text.lower()):
            raise BudgetError(f"Expected credit for the web search tool, got none left: {said}")
        if status in _REFUSALS:
            is_own = self.service == "searxng"
            advice = "Add `json` to `search.formats` of its settings, or correct" if is_own else "Correct the key or"
            raise ConfigurationError(f"Expected {self.url} to answer searches, got status {status}. {advice} `url`.")
        if status != 200:
            raise ToolFailure(said)
        try:
            return self._passages(json.loads(text))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ToolFailure(f"{self.url} sent no results of {self.service}: {text[:120]!r}") from error

    def _passages(self, reply: Any) -> list[Passage]:
        nothing: list[Any] | None = [] if self.service == "serper" and "searchParameters" in reply else None
        found = reply.get(self._service.results, nothing)
        if not isinstance(found, list):
            raise TypeError("no list of results")
        service = self._service
        return [
            Passage(str(one[service.link]), str(one.get("title") or ""), str(one.get(service.text) or ""))
            for one in found[: self.top_k]
        ]

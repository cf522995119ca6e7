"""Tools of a server that speaks the Model Context Protocol (MCP), by its official client.

Needs the extra ``llds[mcp]``. The connection lives on a thread of its own, from the first use to the end of the
process.
"""

import asyncio
import json
import re
import sys
import threading
import weakref
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any

from llds.agent_tools.base import AgentTool, checked_tool_name
from llds.errors import ConfigurationError, ToolFailure, ToolInputError
from llds.paths import PACKAGE_PREFIX, resolve_path
from llds.types import ToolResult

_INVALID_PARAMETERS = -32602


class MCPTools(AgentTool):
    """All tools of an MCP server, or some of them; stands in `agent_tools` for them.

    Names that are no plain words are made so: ``Get-Weather`` is called ``get_weather``. What the server reports as an
    error of the tool is the model's mistake; a server that cannot be reached is infrastructure.

    Args:
        url: Of a server of streamable HTTP, such as ``http://127.0.0.1:8000/mcp``.
        command: Program with its arguments that speaks MCP on its standard input and output; ``python`` is the one
            that runs llds, and a script may stand beside the configuration.
        only: Names of the tools that are wanted; None is all.
        environment: Further environment variables of the program.
        deadline_s: Longest time to connect and to list the tools, in seconds.

    Raises:
        ConfigurationError: Not exactly one of `url` and `command` is given; or, when the tools are listed, the server
            cannot be reached, or lacks one of `only`.
    """

    description = "The tools of a server."

    def __init__(
        self,
        url: str | None = None,
        command: list[str] | None = None,
        only: list[str] | None = None,
        environment: dict[str, str] | None = None,
        deadline_s: float = 30.0,
    ) -> None:
        if (url is None) == (not command):
            raise ConfigurationError(f"Expected a `url` or a `command` of the MCP server, got {url!r} and {command!r}.")
        self.name = url or " ".join(command or [])
        words = [str(resolve_path(word)) if word.startswith(PACKAGE_PREFIX) else word for word in command or []]
        self._url, self._only = url, only
        self._command = [sys.executable, *words[1:]] if words[:1] == ["python"] else words
        self._environment, self.deadline_s = environment, deadline_s
        self._connection: _Connection | None = None

    async def run(self, **_: Any) -> ToolResult:
        """Is no tool itself: see `expand`."""
        raise NotImplementedError

    def expand(self) -> list[AgentTool]:
        """Connect, and list the server's tools."""
        try:
            listed = self.connection().wait(_listed, self.deadline_s)
        except (ToolFailure, TimeoutError) as error:
            reason = str(error) or f"no answer within {self.deadline_s:g} s"
            raise ConfigurationError(
                f"Expected the tools of the MCP server {self.name}, got no list of them: {reason}. Start it, or "
                "correct `url` or `command`."
            ) from error
        known = {tool.name: tool for tool in listed}
        if missing := [name for name in self._only or () if name not in known]:
            raise ConfigurationError(
                f"Expected a tool {missing[0]!r} of the MCP server {self.name}, got {sorted(known)}. Correct `only`."
            )
        return [MCPTool(self, known[name]) for name in (self._only or known)]

    def connection(self) -> "_Connection":
        """The connection, made where there is none that works."""
        if self._connection is None or not self._connection.is_open:
            self._connection = _Connection(self._server(), self.deadline_s)
            weakref.finalize(self, _Connection.close, self._connection)
        return self._connection

    def _server(self) -> Any:
        try:
            from mcp import StdioServerParameters
        except ImportError as error:
            raise ConfigurationError(
                "Expected the package `mcp` for tools of an MCP server: pip install 'llds[mcp]'."
            ) from error
        if self._url is not None:
            return self._url
        return StdioServerParameters(command=self._command[0], args=self._command[1:], env=self._environment)


class MCPTool(AgentTool):
    """One tool of a server.

    Args:
        server: Has the connection.
        described: As the server lists it.
    """

    def __init__(self, server: MCPTools, described: Any) -> None:
        self.name = checked_tool_name(
            re.sub(r"\W+|_+", "_", described.name.lower()).strip("_"), f"tool of {server.name}"
        )
        self.description = described.description or described.name
        self.parameters = {"type": "object", "properties": {}} | described.input_schema
        self._server, self._called = server, described.name

    def describe(self) -> dict[str, Any]:
        """Class, name and server."""
        return super().describe() | {"server": self._server.name}

    async def run(self, **arguments: Any) -> ToolResult:
        """Ask the server.

        Raises:
            ToolInputError: The tool reports an error.
            ToolFailure: The server cannot be reached, or breaks off.
        """
        connection = await asyncio.to_thread(self._server.connection)
        found = await connection.ask(lambda client: client.call_tool(self._called, arguments))
        texts = [block.text for block in found.content if getattr(block, "text", None) is not None]
        structured = found.structured_content
        text = "\n".join(texts) if texts or not structured else json.dumps(structured, ensure_ascii=False)
        if found.is_error:
            raise ToolInputError(text)
        return ToolResult(text)


class _Connection:
    """A client on an event loop of its own: the SDK wants one task that opens and closes it.

    Args:
        server: What the SDK's client takes.
        deadline_s: To connect.

    Raises:
        ToolFailure: It cannot be reached.
    """

    def __init__(self, server: Any, deadline_s: float) -> None:
        self._loop = asyncio.new_event_loop()
        self._client: Any = None
        self._end = asyncio.Event()
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(server,), name="llds-mcp", daemon=True)
        self._thread.start()
        try:
            self._ready.result(deadline_s)
        except TimeoutError as error:
            self.close()
            raise ToolFailure(f"no connection within {deadline_s:g} s") from error

    @property
    def is_open(self) -> bool:
        """Whether it can be asked."""
        return self._client is not None and self._thread.is_alive()

    def wait(self, call: Any, deadline_s: float) -> Any:
        """What a call of the client returns, for a caller without an event loop."""
        return asyncio.run_coroutine_threadsafe(self._typed(call(self._client)), self._loop).result(deadline_s)

    async def ask(self, call: Any) -> Any:
        """What a call of the client returns."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._typed(call(self._client)), self._loop))

    def close(self) -> None:
        """End it, and the server's process."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join(5)

    async def _typed(self, call: Coroutine[Any, Any, Any]) -> Any:
        from mcp import MCPError

        try:
            return await call
        except MCPError as error:
            if error.error.code == _INVALID_PARAMETERS:
                raise ToolInputError(error.error.message) from error
            self._client = None  # the next try connects anew
            raise ToolFailure(f"the MCP server answered: {error}") from error
        except Exception as error:  # what the transport raises when the server has gone
            self._client = None
            raise ToolFailure(f"the MCP server broke off: {type(error).__name__}: {error}") from error

    def _run(self, server: Any) -> None:
        self._loop.run_until_complete(self._serve(server))
        self._loop.close()

    async def _serve(self, server: Any) -> None:
        from mcp import Client

        try:
            async with Client(server) as client:
                self._client = client
                self._ready.set_result(None)
                await self._end.wait()
        except BaseException as error:  # whoever waits must hear of it, whatever it is
            if not self._ready.done():
                self._ready.set_exception(ToolFailure(f"it cannot be reached: {_in_words(error)}"))
        finally:
            self._client = None


async def _listed(client: Any) -> list[Any]:
    """All tools of a server, which may list them page by page."""
    page = await client.list_tools()
    tools = list(page.tools)
    while page.next_cursor:
        page = await client.list_tools(cursor=page.next_cursor)
        tools += page.tools
    return tools


def _in_words(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"

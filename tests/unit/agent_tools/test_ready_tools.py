"""Ready tools against the real thing on this machine: a server of HTTP, processes."""

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from llds.agent_tools import HTTPTool, MCPTools, OpenAPITools, PythonTool, ToolContext, WebSearchTool
from llds.errors import BudgetError, ConfigurationError, ToolFailure, ToolInputError
from llds.rollout import ToolCallPolicy
from llds.rollout.tool_calls import call_tool
from llds.types import ToolResult

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


async def weather(request: web.Request) -> web.StreamResponse:
    city = (await request.json())["city"]
    said: dict[str, Any] = {"Oslo": (200, '{"now": [{"text": "Rain"}]}'), "Nowhere": (404, "No such city.")}
    said |= {"Busy": (503, ""), "Closed": (403, "no"), "Odd": (200, "[]")}
    if city == "Slow":  # its reply comes in pieces
        reply = web.StreamResponse()
        await reply.prepare(request)
        for piece in (b'{"now": [', b'{"text": "Sn', b'ow"}]}'):
            await reply.write(piece)
            await asyncio.sleep(0.01)
        return reply
    status, text = said[city]
    return web.Response(status=status, text=text)


def test_an_address_is_a_tool_whose_status_says_whose_mistake_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask(*cities: str) -> list[Any]:
        app = web.Application()
        app.router.add_post("/weather", weather)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/weather"
        tool = HTTPTool("weather", "The weather.", url, SCHEMA, "now.0.text", token_variable="WEATHER")
        calls = [tool.call(city, ToolContext()) for city in cities]
        found = await asyncio.gather(*calls, return_exceptions=True)
        await runner.cleanup()
        return [*found, *await asyncio.gather(tool.call("Oslo", ToolContext()), return_exceptions=True)]

    monkeypatch.setenv("WEATHER", "secret")
    cities = ("Oslo", "Nowhere", "Busy", "Closed", "Odd", "Slow")
    rain, nowhere, busy, closed, odd, slow, gone = asyncio.run(ask(*cities))
    assert rain.text == "Rain"
    assert slow.text == "Snow"
    assert isinstance(nowhere, ToolInputError)
    assert str(nowhere) == "No such city."
    assert isinstance(busy, ToolFailure)
    assert isinstance(closed, ConfigurationError)
    assert isinstance(odd, ToolFailure)
    assert isinstance(gone, ToolFailure)
    with pytest.raises(ConfigurationError, match="JSON schema"):
        HTTPTool("weather", "The weather.", "http://x", {"city": "string"})
    monkeypatch.delenv("WEATHER")
    [unset] = asyncio.run(ask())
    assert "$WEATHER" in str(unset)


PETS = """
openapi: 3.0.3
info: {title: Pets, version: 2024-01-01}
servers:
  - url: "{root}/v2"
    variables: {root: {default: /api}}
security: [{key: []}]
paths:
  /pets:
    parameters:
      - {$ref: "#/components/parameters/Country"}
    get:
      summary: Finds pets.
      operationId: findPets
      parameters:
        - {name: tags, in: query, description: To look for., schema: {type: array, items: {type: string}}}
        - {name: ids, in: query, explode: false, schema: {type: array, items: {type: integer}}}
        - {name: piped, in: query, style: pipeDelimited, explode: false, schema: {type: array, items: {type: string}}}
        - {name: size, in: query, style: deepObject, schema: {type: object, properties: {cm: {type: number}}}}
        - {name: filter, in: query, content: {application/json: {schema: {type: object}}}}
        - {name: tame, in: query, schema: {type: boolean, nullable: true}}
        - {name: X-Trace, in: header, schema: {type: string}}
        - {name: Authorization, in: header, required: true, schema: {type: string}}
    post:
      operationId: addPet
      requestBody:
        required: true
        content: {application/xml: {}, application/json; charset=utf-8: {schema: {$ref: "#/components/schemas/Pet"}}}
  "/pets/{id}/{part}":
    get:
      parameters:
        - {name: id, in: path, required: true, schema: {type: integer, minimum: 0, exclusiveMinimum: true}}
        - {name: part, in: path, required: true, schema: {type: string}}
    put:
      operationId: setPart
      parameters:
        - {name: id, in: path, required: true, schema: {type: integer}}
        - {name: part, in: path, required: true, schema: {type: string}}
      requestBody: {content: {application/json: {schema: {$ref: "#/components/schemas/Pet"}}}}
  /photo:
    post:
      operationId: uploadPhoto
      requestBody: {content: {multipart/form-data: {}}}
  /session:
    get:
      operationId: session
      parameters: [{name: session, in: cookie, required: true, schema: {type: string}}]
  /elsewhere:
    get:
      operationId: elsewhere
      parameters: [{$ref: "other.yaml#/Thing"}]
components:
  securitySchemes: {key: {type: apiKey, in: header, name: X-Key}}
  parameters:
    Country: {name: country, in: query, schema: {type: string, enum: [NO, SE]}}
  schemas:
    Pet:
      type: object
      required: [id, name]
      properties:
        id: {type: integer, readOnly: true}
        name: {type: string, example: Rex}
        tag: {type: string, nullable: true}
        mother: {$ref: "#/components/schemas/Pet"}
"""
"""In the form of the specification's pet store, with all that an argument can be."""
CALLABLE = ["findPets", "addPet", "get_pets_id_part", "setPart"]


class Mirror:
    """A server that answers with the request, and has a document."""

    def __init__(self, document: str) -> None:
        self.document = document

    async def answer(self, request: web.Request) -> web.Response:
        """Say what came."""
        if request.path == "/docs/openapi.yaml":
            return web.Response(text=self.document)
        if "missing" in request.raw_path:
            return web.Response(status=404, text="No such pet.")
        headers = {name: request.headers.get(name) for name in ("X-Key", "X-Trace", "Authorization")}
        sent = {name: value for name, value in headers.items() if value}
        return web.json_response([request.method, request.raw_path, sent, await request.text()])

    def use(self, tools: Callable[[str], OpenAPITools], *calls: tuple[str, dict[str, Any]]) -> list[Any]:
        """What calls bring while it serves, as a request or an error."""

        async def served() -> list[Any]:
            runner = web.ServerRunner(web.Server(self.answer))
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            try:
                given = tools(f"http://127.0.0.1:{runner.addresses[0][1]}")
                known = {tool.name: tool for tool in await asyncio.to_thread(given.expand)}
                made = [known[name].call(arguments, ToolContext()) for name, arguments in calls]
                return await asyncio.gather(*made, return_exceptions=True)
            finally:
                await runner.cleanup()

        return [json.loads(one.text) if isinstance(one, ToolResult) else one for one in asyncio.run(served())]


def test_operations_of_a_document_at_a_url_are_called_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETS", "secret")
    query = {"tags": ["a b", "ø&"], "ids": [1, 2.0], "piped": ["x", "y"], "size": {"cm": 1.5}, "filter": {"a": [1]}}
    calls: list[tuple[str, dict[str, Any]]] = [
        ("find_pets", query | {"tame": True, "country": "NO", "X-Trace": "t"}),
        ("find_pets", {"tame": None}),
        ("add_pet", {"name": "Rex", "tag": None, "mother": {"name": "Ada", "mother": {"name": "Eve"}}}),
        ("get_pets_id_part", {"id": 7, "part": "a/b?{id}"}),
        ("set_part", {"id": 7, "part": "ear"}),
        ("set_part", {"id": 7, "part": "ear", "body": {"name": "Rex"}}),
        ("get_pets_id_part", {"id": 7, "part": "missing"}),
        ("get_pets_id_part", {"id": 7, "part": ".."}),
        ("get_pets_id_part", {"id": 7, "part": "\ud800"}),
        ("get_pets_id_part", {"id": 0, "part": "ear"}),
        ("add_pet", {"name": "Rex", "mother": {"name": "Ada", "mother": {}}}),
        ("add_pet", {"name": "Rex", "id": 3}),
        ("find_pets", {"X-Trace": "a\r\nX-Key: mine"}),
        ("find_pets", {"country": "no"}),
    ]
    found, nothing, added, part, bare, whole, *wrong = Mirror(PETS).use(
        lambda url: OpenAPITools(f"{url}/docs/openapi.yaml", CALLABLE, token_variable="PETS"), *calls
    )
    key = {"X-Key": "secret"}
    assert found[:1] + found[2:] == ["GET", key | {"X-Trace": "t"}, ""]
    path, _, sent = found[1].partition("?")
    assert path == "/api/v2/pets"
    assert sent.split("&") == [
        *("tags=a%20b", "tags=%C3%B8%26", "ids=1,2", "piped=x%7Cy", "size%5Bcm%5D=1.5"),
        *("filter=%7B%22a%22%3A%20%5B1%5D%7D", "tame=true", "country=NO"),
    ]
    assert nothing == ["GET", "/api/v2/pets", key, ""]
    assert added[:3] == ["POST", "/api/v2/pets", key]
    assert json.loads(added[3]) == calls[2][1]
    assert part[1] == "/api/v2/pets/7/a%2Fb%3F%7Bid%7D"
    assert bare == ["PUT", "/api/v2/pets/7/ear", key, ""]
    assert whole == ["PUT", "/api/v2/pets/7/ear", key, '{"name": "Rex"}']
    assert [type(one) for one in wrong] == [ToolInputError] * len(wrong)
    assert str(wrong[0]) == "No such pet."


def test_the_model_is_told_the_arguments_that_a_document_describes(tmp_path: Path) -> None:
    file = tmp_path / "pets.yaml"
    file.write_text(PETS)
    tools = OpenAPITools(str(file), CALLABLE, base_url="http://pets.test/").expand()
    find, add, get, put = (tool.schema["function"] for tool in tools)
    assert (find["name"], find["description"]) == ("find_pets", "Finds pets.")
    known = find["parameters"]["properties"]
    assert known["tags"] == {"type": "array", "items": {"type": "string"}, "description": "To look for."}
    assert known["tame"] == {"type": ["boolean", "null"]}
    assert {"country", "X-Trace"} <= known.keys()
    assert "Authorization" not in known
    assert add["parameters"]["required"] == ["name"]  # its id is the server's
    assert add["parameters"]["properties"]["name"] == {"type": "string"}
    assert add["parameters"]["properties"]["mother"] == {"$ref": "#/$defs/Pet"}
    assert get["description"] == "GET /pets/{id}/{part}"
    assert get["parameters"]["properties"]["id"] == {"type": "integer", "exclusiveMinimum": 0}
    assert put["parameters"]["required"] == ["id", "part"]  # a body may be left out, and then is whole
    assert "body" in put["parameters"]["properties"]
    assert tools[2].describe()["url"] == "http://pets.test/pets/{id}/{part}"


@pytest.mark.parametrize(
    ("change", "settings", "said"),
    [
        ({}, {}, r"uploadPhoto: its body is multipart/form-data.*\(and 2 more\).*`only`.*: find_pets, add_pet"),
        ({}, {"only": ["session"]}, "session: its parameter 'session' goes into the cookie"),
        ({}, {"only": ["elsewhere"]}, r"elsewhere: its reference 'other.yaml#/Thing' leads to nothing"),
        ({}, {"only": ["findDogs"]}, r"'findDogs'.*findPets.*`only`"),
        ({}, {"only": []}, "got none"),
        ({}, {"only": ["addPet"], "base_url": None}, r"addPet: its server is '/api/v2'.*`base_url`"),
        ({"type: apiKey, in: header": "type: apiKey, in: cookie"}, {"only": ["addPet"]}, "none of its security"),
        ({"/{part}": ""}, {"only": ["setPart"]}, "setPart: its path.*'part'"),
        ({"enum: [NO, SE]": "pattern: ("}, {"only": ["addPet"]}, "addPet: the schema .* at `properties.country"),
        ({"openapi: 3.0.3": "swagger: 2.0"}, {}, "3.0 or 3.1, got version 2.0"),
        ({"paths:": "paths: ["}, {}, "JSON or YAML"),
        ({"paths:": "_:"}, {}, "Expected operations in .*, got none"),
    ],
)
def test_what_no_tool_can_do_is_refused_with_the_file_and_the_operation(
    tmp_path: Path, change: dict[str, str], settings: dict[str, Any], said: str
) -> None:
    text = PETS
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new)
    file = tmp_path / "pets.yaml"
    file.write_text(text)
    tools = OpenAPITools(str(file), **{"base_url": "http://pets.test", "token_variable": "PETS"} | settings)
    with pytest.raises(ConfigurationError, match=said) as caught:
        tools.expand()
    assert str(file) in str(caught.value)


def test_a_document_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for document in (str(tmp_path / "none.yaml"), "http://127.0.0.1:9/openapi.json"):
        with pytest.raises(ConfigurationError, match=f"document at {document}.*`document`"):
            OpenAPITools(document).expand()


SHAPES: dict[str, Any] = {
    "searxng": {"query": "x", "number_of_results": 2, "results": [
        {"title": "Oslo", "url": "https://oslo.test/", "content": "A city\nof Norway.", "engine": "test", "score": 1.0},
        {"title": "Bergen", "url": "https://bergen.test/", "content": "Rain."}], "answers": [], "infoboxes": []},
    "serper": {"searchParameters": {"q": "x", "type": "search", "engine": "google"}, "organic": [
        {"title": "Oslo", "link": "https://oslo.test/", "snippet": "A city\nof Norway.", "position": 1},
        {"title": "Bergen", "link": "https://bergen.test/", "snippet": "Rain.", "position": 2}], "credits": 1},
    "tavily": {"query": "x", "answer": None, "images": [], "response_time": 1.67, "results": [
        {"title": "Oslo", "url": "https://oslo.test/", "content": "A city\nof Norway.", "score": 0.8},
        {"title": "Bergen", "url": "https://bergen.test/", "content": "Rain.", "score": 0.5}]},
}  # fmt: skip
"""Replies of the three services, as their documentation shows them."""


class Web:
    """A server that answers in the shape of a service, or with what stands in `replies`."""

    def __init__(self, *replies: tuple[int, str]) -> None:
        self.replies = list(replies)
        self.asked: list[tuple[str, dict[str, Any], dict[str, str]]] = []

    async def answer(self, request: web.Request) -> web.Response:
        """Take a request down, and answer it."""
        asked = dict(request.query) if request.method == "GET" else await request.json()
        self.asked.append((request.method, asked, dict(request.headers)))
        if self.replies:
            status, text = self.replies.pop(0)
            return web.Response(status=status, text=text)
        key = "serper" if "X-API-KEY" in request.headers else "tavily" if "Authorization" in request.headers else ""
        return web.json_response(SHAPES[key or "searxng"])

    def use(self, play: Callable[[str], Awaitable[Any]]) -> Any:
        """Play something while it serves."""

        async def served() -> Any:
            app = web.Application()
            app.router.add_route("*", "/search", self.answer)
            runner = web.AppRunner(app)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            try:
                return await play(f"http://127.0.0.1:{runner.addresses[0][1]}/")
            finally:
                await runner.cleanup()

        return asyncio.run(served())


@pytest.fixture
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERPER_API_KEY", "secret")
    monkeypatch.setenv("TAVILY_API_KEY", "secret")


@pytest.mark.usefixtures("_keys")
@pytest.mark.parametrize(
    ("service", "request_of"),
    [
        ("searxng", ("GET", {"q": "capital of Norway", "format": "json"})),
        ("serper", ("POST", {"q": "capital of Norway", "num": 1})),
        ("tavily", ("POST", {"query": "capital of Norway", "max_results": 1})),
    ],
)
def test_a_service_of_the_web_is_asked_once_in_its_own_words(service: Any, request_of: Any, tmp_path: Path) -> None:
    server, cache = Web(), str(tmp_path / "web" / "cache.sqlite")

    async def play(url: str) -> list[Any]:
        tool, again = (WebSearchTool(service, url, top_k=1, cache=cache, budget=1) for _ in range(2))
        both = await asyncio.gather(*(tool.call(f" capital  of {one}", ToolContext()) for one in ("Norway", "Norway")))
        return [*both, await again.call("capital of Norway", ToolContext()), again.cache.requests]

    *found, requests = server.use(play)
    assert [one.text for one in found] == ['Doc 1(Title: "Oslo") A city of Norway.'] * 3
    assert {one.document_ids for one in found} == {("https://oslo.test/",)}
    assert ([one[:2] for one in server.asked], requests) == ([request_of], 1)
    key = {"searxng": "", "serper": "secret", "tavily": "Bearer secret"}[service]
    assert server.asked[0][2].get("X-API-KEY", server.asked[0][2].get("Authorization", "")) == key


@pytest.mark.usefixtures("_keys")
def test_what_goes_wrong_with_a_web_search_is_nobody_elses_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, refused = (429, "slow down"), (403, "Forbidden")
    credit, odd, html = (400, '{"message": "Not enough credits"}'), (200, '{"organic": [{}]}'), (200, "<html>")
    server = Web(busy, refused, credit, odd, html, (200, '{"searchParameters": {}}'))

    async def play(url: str) -> list[Any]:
        tool = WebSearchTool("serper", url, cache=str(tmp_path / "cache"), budget=7)
        calls = [tool.call(f"query {number}", ToolContext()) for number in range(6)]
        found = [(await asyncio.gather(one, return_exceptions=True))[0] for one in calls]
        found += await asyncio.gather(tool.call("x" * 401, ToolContext()), return_exceptions=True)
        await tool.call("the last", ToolContext())
        for query in ("query 5", "the last"):  # what is known costs nothing
            await call_tool(tool, query, ToolCallPolicy())
        for _ in range(2):
            with pytest.raises(BudgetError, match=r"at most 7 requests.*`budget`.*resume"):
                await call_tool(tool, "one more", ToolCallPolicy())
        return found

    kinds = [ToolFailure, ConfigurationError, BudgetError, ToolFailure, ToolFailure]
    *failed, nothing, long = server.use(play)
    assert [type(one) for one in failed] == kinds
    assert nothing.text == "No passage was found."
    assert isinstance(long, ToolInputError)
    (tmp_path / "text").write_text("no database, and longer than the head of one" * 100)
    for wrong in (lambda: WebSearchTool("searxng"), lambda: WebSearchTool("tavily", top_k=0)):
        with pytest.raises(ConfigurationError):
            wrong()
    with pytest.raises(ConfigurationError, match="`cache` of the web search"):
        asyncio.run(WebSearchTool("serper", "http://127.0.0.1:9", cache=str(tmp_path / "text")).run("x"))
    with pytest.raises(ToolFailure, match="cannot be asked"):
        asyncio.run(WebSearchTool("serper", "http://127.0.0.1:9").run("x"))
    monkeypatch.delenv("TAVILY_API_KEY")
    with pytest.raises(ConfigurationError, match=r"\$TAVILY_API_KEY"):
        asyncio.run(WebSearchTool("tavily").run("x"))


@pytest.mark.slow
def test_a_program_runs_within_its_limits(tmp_path: Any) -> None:
    limits = {"memory_mb": 256, "disk_mb": 1, "max_chars": 50}
    tool, hasty = PythonTool(time_s=60, **limits), PythonTool(time_s=1, **limits)

    async def run(tool: PythonTool, *programs: str) -> list[Any]:
        calls = (tool.call({"code": program}, ToolContext()) for program in programs)
        return list(await asyncio.gather(*calls, return_exceptions=True))

    async def cancel() -> None:
        endless = asyncio.create_task(hasty.run("while True: pass"))
        await asyncio.sleep(0.3)
        endless.cancel()
        await asyncio.gather(endless, return_exceptions=True)

    fine, quiet, wrong, fat, wide, connected, forked, outside, chatty = asyncio.run(
        run(
            tool,
            "print(sum(range(10)))",
            "x = 1",
            "print(1 / 0)",
            "x = bytearray(10**9)",
            "open('f', 'wb').write(bytes(3 * 2**20))",
            "import socket; socket.create_connection(('127.0.0.1', 80))",
            "import os; os.system('ls')",
            "import os; print(os.listdir('.'), sorted(os.environ))",
            "print('x' * 3 * 2**20)",
        )
    )
    forever, sleeping, endless = asyncio.run(
        run(
            hasty,
            "while True: pass",
            "import time; time.sleep(60)",
            "while True:\n  try: print('x' * 2**16)\n  except OSError: pass",
        )
    )
    asyncio.run(cancel())
    assert (fine.text, quiet.text) == ("45", "It printed nothing.")
    refused = (wrong, fat, wide, connected, forked, chatty, forever, sleeping, endless)
    assert all(isinstance(one, ToolInputError) for one in refused)
    assert "ZeroDivisionError" in str(wrong)
    assert "MemoryError" in str(fat)
    assert "not allowed" in str(connected)
    assert "not allowed" in str(forked)
    assert outside.text.startswith("[] ['HOME'")
    assert "printed more than 1 MiB" in str(chatty)
    assert all("after 1 s" in str(one) for one in (forever, sleeping))
    with pytest.raises(ConfigurationError, match="at least 1"):
        PythonTool(time_s=0)


SERVER = '''
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
import os, sys
server = MCPServer("tests")

@server.tool()
def add(a: int, b: int = 1) -> str:
    """Adds numbers."""
    if a < 0:
        raise ToolError("no negative numbers")
    return str(a + b)

@server.tool(name="Break-Off")
def leave() -> str:
    """Ends the server."""
    os._exit(1)

if sys.argv[1:]:
    server.run("streamable-http", port=int(sys.argv[1]))
server.run("stdio")
'''


class MCPOverHTTP:
    """The server in a process of its own, at an address."""

    def __init__(self, script: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.script, self.url = script, f"http://127.0.0.1:{self.port}/mcp"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, also once more after its end; returns when it listens."""
        self.stop()
        self.process = subprocess.Popen([sys.executable, str(self.script), str(self.port)], stderr=subprocess.DEVNULL)
        while self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.05)
        raise AssertionError("the server ended")

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def test_a_server_that_lists_its_tools_page_by_page_is_read_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    class Client:
        async def list_tools(self, cursor: str | None = None) -> Any:
            names, following = {None: (["add"], "2"), "2": (["Sub"], None)}[cursor]
            listed = [SimpleNamespace(name=name, description="", input_schema={"type": "object"}) for name in names]
            return SimpleNamespace(tools=listed, next_cursor=following)

        async def call_tool(self, name: str, arguments: Any) -> Any:
            return SimpleNamespace(content=[], structured_content={name: True}, is_error=False)

    async def ask(call: Any) -> Any:
        return await call(Client())

    connection = SimpleNamespace(wait=lambda call, deadline_s: asyncio.run(call(Client())), ask=ask)
    monkeypatch.setattr(MCPTools, "connection", lambda self: connection)
    tools = MCPTools(url="http://127.0.0.1:9/mcp").expand()
    assert [tool.name for tool in tools] == ["add", "sub"]
    assert asyncio.run(tools[1].call({}, ToolContext())).text == '{"Sub": true}'


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["stdio", "http"])
def test_tools_of_an_mcp_server_are_listed_called_and_found_again(tmp_path: Path, transport: str) -> None:
    pytest.importorskip("mcp")
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    remote = MCPOverHTTP(script)
    if transport == "http":
        remote.start()
    address: dict[str, Any] = {"url": remote.url} if remote.process else {"command": ["python", str(script)]}
    server = MCPTools(**address)
    tools = {tool.name: tool for tool in server.expand()}
    assert set(tools) == {"add", "break_off"}
    assert tools["add"].schema["function"]["description"] == "Adds numbers."

    async def use() -> list[Any]:
        calls = [{"a": 2, "b": 3}, {"a": 2}, {"a": -1}, {"a": "x"}]
        found = [tools["add"].call(one, ToolContext()) for one in calls]
        said: list[Any] = await asyncio.gather(*found, return_exceptions=True)
        policy = ToolCallPolicy(max_retries=0, deadline_s=10)
        lost = await asyncio.gather(call_tool(tools["break_off"], {}, policy), return_exceptions=True)
        if remote.process:
            remote.start()
        return [*said, *lost, await call_tool(tools["add"], {"a": 1}, ToolCallPolicy(backoff_s=0))]

    try:
        five, three, negative, no_number, lost, again = asyncio.run(use())
    finally:
        remote.stop()
    assert (five.text, three.text, again.text) == ("5", "3", "2")
    assert isinstance(negative, ToolInputError)
    assert "no negative numbers" in str(negative)
    assert isinstance(no_number, ToolInputError)
    assert isinstance(lost, ToolFailure)
    with pytest.raises(ConfigurationError, match=r"'sub'.*Break-Off.*`only`"):
        MCPTools(command=["python", str(script)], only=["sub"]).expand()
    with pytest.raises(ConfigurationError, match="no list of them"):
        MCPTools(url="http://127.0.0.1:9/mcp", deadline_s=5).expand()
    with pytest.raises(ConfigurationError, match="`url` or a `command`"):
        MCPTools()

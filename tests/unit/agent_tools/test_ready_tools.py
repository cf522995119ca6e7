"""Ready tools against the real thing on this machine: a server of HTTP, processes."""

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from llds.agent_tools import HTTPTool, MCPTools, PythonTool, ToolContext
from llds.errors import ConfigurationError, ToolFailure, ToolInputError
from llds.rollout import ToolCallPolicy
from llds.rollout.tool_calls import call_tool

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


async def weather(request: web.Request) -> web.Response:
    city = (await request.json())["city"]
    said: dict[str, Any] = {"Oslo": (200, '{"now": [{"text": "Rain"}]}'), "Nowhere": (404, "No such city.")}
    said |= {"Busy": (503, ""), "Closed": (403, "no"), "Odd": (200, "[]")}
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
    rain, nowhere, busy, closed, odd, gone = asyncio.run(ask("Oslo", "Nowhere", "Busy", "Closed", "Odd"))
    assert rain.text == "Rain"
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


@pytest.mark.slow
def test_a_program_runs_within_its_limits(tmp_path: Any) -> None:
    tool = PythonTool(time_s=1, memory_mb=256, disk_mb=1, max_chars=50)

    async def run(*programs: str) -> list[Any]:
        calls = (tool.call({"code": program}, ToolContext()) for program in programs)
        found = await asyncio.gather(*calls, return_exceptions=True)
        endless = asyncio.create_task(tool.run("while True: pass"))
        await asyncio.sleep(0.3)
        endless.cancel()
        await asyncio.gather(endless, return_exceptions=True)
        return list(found)

    started = time.monotonic()
    fine, quiet, wrong, forever, sleeping, fat, wide, connected, forked, outside = asyncio.run(
        run(
            "print(sum(range(10)))",
            "x = 1",
            "print(1 / 0)",
            "while True: pass",
            "import time; time.sleep(60)",
            "x = bytearray(10**9)",
            "open('f', 'wb').write(bytes(3 * 2**20))",
            "import socket; socket.create_connection(('127.0.0.1', 80))",
            "import os; os.system('ls')",
            "import os; print(os.listdir('.'), sorted(os.environ))",
        )
    )
    assert time.monotonic() - started < 60  # none of them had its own way
    assert (fine.text, quiet.text) == ("45", "It printed nothing.")
    assert all(isinstance(one, ToolInputError) for one in (wrong, forever, sleeping, fat, wide, connected, forked))
    assert "ZeroDivisionError" in str(wrong)
    assert "after 1 s" in str(sleeping)
    assert "MemoryError" in str(fat)
    assert "not allowed" in str(connected)
    assert "not allowed" in str(forked)
    assert outside.text.startswith("[] ['HOME'")
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

server.run(*sys.argv[1:2], **({"port": int(sys.argv[2])} if sys.argv[2:] else {}))
'''


@pytest.mark.slow
def test_tools_of_an_mcp_server_are_listed_called_and_found_again(tmp_path: Path) -> None:
    pytest.importorskip("mcp")
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    server = MCPTools(command=[sys.executable, str(script)])
    tools = {tool.name: tool for tool in server.expand()}
    assert set(tools) == {"add", "break_off"}
    assert tools["add"].schema["function"]["description"] == "Adds numbers."

    async def use() -> list[Any]:
        calls = [{"a": 2, "b": 3}, {"a": 2}, {"a": -1}, {"a": "x"}]
        found = [tools["add"].call(one, ToolContext()) for one in calls]
        said: list[Any] = await asyncio.gather(*found, return_exceptions=True)
        policy = ToolCallPolicy(max_retries=0, deadline_s=10)
        lost = await asyncio.gather(call_tool(tools["break_off"], {}, policy), return_exceptions=True)
        return [*said, *lost, await call_tool(tools["add"], {"a": 1}, ToolCallPolicy(backoff_s=0))]

    five, three, negative, no_number, lost, again = asyncio.run(use())
    assert (five.text, three.text, again.text) == ("5", "3", "2")
    assert isinstance(negative, ToolInputError)
    assert "no negative numbers" in str(negative)
    assert isinstance(no_number, ToolInputError)
    assert isinstance(lost, ToolFailure)
    with pytest.raises(ConfigurationError, match=r"'sub'.*Break-Off.*`only`"):
        MCPTools(command=[sys.executable, str(script)], only=["sub"]).expand()
    with pytest.raises(ConfigurationError, match="no list of them"):
        MCPTools(url="http://127.0.0.1:9/mcp", deadline_s=5).expand()
    with pytest.raises(ConfigurationError, match="`url` or a `command`"):
        MCPTools()

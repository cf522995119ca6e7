"""Ready tools against the real thing on this machine: a server of HTTP, processes."""

import asyncio
import time
from typing import Any

import pytest
from aiohttp import web

from llds.agent_tools import HTTPTool, PythonTool, ToolContext
from llds.errors import ConfigurationError, ToolFailure, ToolInputError

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

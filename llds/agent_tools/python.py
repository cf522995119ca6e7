"""Runs Python that the model writes, in a process of its own with limits.

**This is no security boundary.** It keeps mistakes of a model from stopping a training: endless loops, full memory,
full disks, connections. Code that means to get out gets out. For such a policy run a sandbox, and call it by
`HTTPTool`.
"""

import asyncio
import os
import resource
import signal
import sys
import tempfile

from llds.agent_tools.base import AgentTool, checked_tool_name
from llds.errors import ConfigurationError, ToolFailure, ToolInputError
from llds.types import ToolResult

_PRELUDE = """
import sys
def _refuse(event, arguments):
    if event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn")):
        raise PermissionError(f"{event} is not allowed here")
sys.addaudithook(_refuse)
del _refuse
exec(compile(sys.stdin.read(), "<code>", "exec"), {"__name__": "__main__"})
"""
_FILES = 64


class PythonTool(AgentTool):
    """Runs a program, and returns what it prints; an error of the program is the model's mistake.

    Args:
        name: What the model calls it by.
        time_s: Longest time, in seconds.
        memory_mb: Most memory, in MiB.
        disk_mb: Largest file that it may write, in MiB.
        max_chars: Most characters that are returned; the end of a longer output.

    Raises:
        ConfigurationError: A limit is below 1.
    """

    description = "Runs a Python program and returns what it prints. No network; nothing is kept between calls."
    argument_name = "code"

    def __init__(
        self, name: str = "python", time_s: int = 5, memory_mb: int = 512, disk_mb: int = 16, max_chars: int = 4000
    ) -> None:
        if min(time_s, memory_mb, disk_mb, max_chars) < 1:
            raise ConfigurationError(
                f"Expected all limits of the tool {name!r} to be at least 1, got time_s {time_s}, memory_mb "
                f"{memory_mb}, disk_mb {disk_mb}, max_chars {max_chars}. Raise them."
            )
        self.name = checked_tool_name(name, "name")
        self.time_s, self.memory_mb, self.disk_mb, self.max_chars = time_s, memory_mb, disk_mb, max_chars

    async def run(self, argument: str) -> ToolResult:
        """Run it.

        Raises:
            ToolInputError: It is empty, fails, or runs into a limit.
            ToolFailure: No process could be started.
        """
        if not argument.strip():
            raise ToolInputError("The program is empty. Write Python that prints what you want to know.")
        with tempfile.TemporaryDirectory(prefix="llds-python-", ignore_cleanup_errors=True) as folder:
            code, printed = await self._process(argument, folder)
        text = printed[-self.max_chars :].strip()
        if code == -signal.SIGKILL:
            raise ToolInputError(f"The program was stopped after {self.time_s} s. Write one that ends sooner.")
        if code:
            raise ToolInputError(text or f"The program ended with code {code}.")
        return ToolResult(text or "It printed nothing.")

    async def _process(self, program: str, folder: str) -> tuple[int, str]:
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-c", _PRELUDE,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
                cwd=folder, env={"PATH": os.defpath, "HOME": folder, "LANG": "C.UTF-8"}, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise ToolFailure(f"no process for {self.name}: {error}") from error
        try:
            self._limit(process.pid)
            sent = program.encode("utf-8", "replace")
            printed, _ = await asyncio.wait_for(process.communicate(sent), self.time_s + 1)
        except TimeoutError:
            _kill(process.pid)
            await process.wait()
            return -signal.SIGKILL, ""
        except BaseException:  # cancelled: nothing may be left running
            _kill(process.pid)
            await process.wait()
            raise
        return process.returncode or 0, printed.decode("utf-8", "replace")

    def _limit(self, pid: int) -> None:
        """Before the program is sent: it waits for it."""
        for kind, value in (
            (resource.RLIMIT_CPU, self.time_s),
            (resource.RLIMIT_AS, self.memory_mb * 2**20),
            (resource.RLIMIT_FSIZE, self.disk_mb * 2**20),
            (resource.RLIMIT_NOFILE, _FILES),
            (resource.RLIMIT_CORE, 0),
        ):
            resource.prlimit(pid, kind, (value, value))


def _kill(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return

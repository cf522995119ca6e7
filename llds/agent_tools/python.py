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
from typing import IO

from llds.agent_tools.base import AgentTool, checked_tool_name
from llds.errors import ConfigurationError, ToolFailure, ToolInputError
from llds.types import ToolResult

_PRELUDE = """
import resource, sys
for _kind, _value in {limits}:
    _most = resource.getrlimit(_kind)[1]
    _value = _value if _most == resource.RLIM_INFINITY else min(_value, _most)
    try:
        resource.setrlimit(_kind, (_value, _value))
    except (ValueError, OSError):
        pass  # macOS bounds no memory
def _refuse(event, arguments):
    if event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn")):
        raise PermissionError(f"{{event}} is not allowed here")
sys.addaudithook(_refuse)
del _refuse, _kind, _value, _most, resource
exec(compile(sys.stdin.buffer.read(), "<code>", "exec"), {{"__name__": "__main__"}})
"""
_FILES, _MIB = 64, 2**20


class PythonTool(AgentTool):
    """Runs a program, and returns what it prints; an error of the program is the model's mistake.

    Args:
        name: What the model calls it by.
        time_s: Longest time, in seconds; `rollout.tool_calls.deadline_s` has to be more than a second longer.
        memory_mb: Most memory, in MiB; macOS does not hold it to that.
        disk_mb: Largest file that it may write, and most that it may print, in MiB.
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
        self.longest_s = time_s + 1.0  # the kernel counts processor time: a program that sleeps is ended here

    async def run(self, argument: str) -> ToolResult:
        """Run it.

        Raises:
            ToolInputError: It is empty, fails, or runs into a limit.
            ToolFailure: No process could be started.
        """
        if not argument.strip():
            raise ToolInputError("The program is empty. Write Python that prints what you want to know.")
        with (
            tempfile.TemporaryDirectory(prefix="llds-python-", ignore_cleanup_errors=True) as folder,
            tempfile.TemporaryFile() as program,
            tempfile.TemporaryFile() as printed,
        ):
            program.write(argument.encode("utf-8", "replace"))
            program.seek(0)
            code = await self._process(program, printed, folder)
            size = printed.seek(0, os.SEEK_END)
            printed.seek(max(0, size - 4 * self.max_chars))  # a character has four bytes at most
            text = printed.read().decode("utf-8", "replace")[-self.max_chars :].strip()
        if size >= self.disk_mb * _MIB:
            raise ToolInputError(f"The program printed more than {self.disk_mb} MiB. Write one that prints less.")
        if code == -signal.SIGKILL:
            raise ToolInputError(f"The program was stopped after {self.time_s} s. Write one that ends sooner.")
        if code:
            raise ToolInputError(text or f"The program ended with code {code}.")
        return ToolResult(text or "It printed nothing.")

    async def _process(self, program: IO[bytes], printed: IO[bytes], folder: str) -> int:
        """Run a program to its end or to its limits.

        It reads from a file and prints into one: pipes would have to be emptied, as fast and as long as it prints.

        Returns:
            Its exit code; that of a kill where it ran out of time.
        """
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-c", _PRELUDE.format(limits=self._limits),
                stdin=program, stdout=printed, stderr=asyncio.subprocess.STDOUT,
                cwd=folder, env={"PATH": os.defpath, "HOME": folder, "LANG": "C.UTF-8"}, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise ToolFailure(f"no process for {self.name}: {error}") from error
        try:
            return await asyncio.wait_for(process.wait(), self.longest_s)
        except BaseException as error:  # also where it was cancelled: nothing may be left running
            _kill(process.pid)
            await process.wait()
            if not isinstance(error, TimeoutError):
                raise
            return -signal.SIGKILL

    @property
    def _limits(self) -> list[tuple[int, int]]:
        return [
            (resource.RLIMIT_CPU, self.time_s),
            (resource.RLIMIT_AS, self.memory_mb * _MIB),
            (resource.RLIMIT_FSIZE, self.disk_mb * _MIB),
            (resource.RLIMIT_NOFILE, _FILES),
            (resource.RLIMIT_CORE, 0),
        ]


def _kill(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return

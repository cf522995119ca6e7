"""A vLLM server of our own: started, waited for, and never left behind."""

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from llds.errors import SamplerError

_POLL_S = 0.3
_LOG_LINES = 15


class OwnServers:
    """The servers that one process starts, all alike.

    Args:
        command: The command line of a server on this port.
        environments: The environment of each server.
        logs: Folder of their logs.
        deadline_s: Longest time that they may take to start, in seconds.
    """

    def __init__(
        self,
        command: Callable[[int], Sequence[str]],
        environments: Sequence[Mapping[str, str]],
        logs: Path,
        deadline_s: float,
    ) -> None:
        self._command, self._environments, self._logs, self._deadline_s = command, environments, logs, deadline_s
        self.running: dict[int, ServerProcess] = {}

    def start(self, lost: Collection[str]) -> list[str]:
        """Start those that do not run, or are among the lost; returns the addresses of all."""
        for number, process in list(self.running.items()):
            if process.url in lost or not process.is_running:
                process.close()
                del self.running[number]
        missing = [number for number in range(len(self._environments)) if number not in self.running]
        for number in missing:
            self.running[number] = self._launch(number)
        for number in missing:
            self.running[number].wait_until_ready(self._deadline_s)
        return [self.running[number].url for number in sorted(self.running)]

    def _launch(self, number: int) -> "ServerProcess":
        port = free_port()
        log = self._logs / f"vllm-server-{number}.log"
        return ServerProcess(self._command(port), self._environments[number], f"http://127.0.0.1:{port}", log)

    def close(self) -> None:
        """End all."""
        for process in self.running.values():
            process.close()
        self.running = {}


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ServerProcess:
    """A server in a process group of its own, under a supervisor that outlives this process only to end it.

    Args:
        command: Its command line.
        environment: Its environment.
        url: Where it will answer.
        log: File that it writes to.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], url: str, log: Path) -> None:
        self.url = url
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        supervisor = str(Path(__file__).with_name("supervisor.py"))
        with log.open("ab") as file:
            self._process = subprocess.Popen(  # noqa: S603 (no shell, and llds composed it)
                [sys.executable, supervisor, *command],
                stdin=subprocess.PIPE,  # the supervisor ends the server when it closes, in whatever way we end
                stdout=file,
                stderr=file,
                env=dict(environment),
            )

    @property
    def supervisor_id(self) -> int:
        """Number of the process that watches the server."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the server's first process runs."""
        return self._process.poll() is None

    def wait_until_ready(self, deadline_s: float) -> None:
        """Wait until the server answers.

        Args:
            deadline_s: Longest wait, in seconds.

        Raises:
            SamplerError: If it ends or takes longer, with the end of its log.
        """
        ends = time.monotonic() + deadline_s
        while not _answers(self.url):
            if not self.is_running or time.monotonic() > ends:
                what = f"no answer within {deadline_s:g} s" if self.is_running else "it ended"
                self.close()
                raise SamplerError(
                    f"Expected the vLLM server at {self.url} to start, got: {what}. Its log ({self.log}) ends:\n"
                    + "\n".join(self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
                )
            time.sleep(_POLL_S)

    def close(self) -> None:
        """End the server. A second call does nothing."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:  # noqa: S310 (http, composed by llds)
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False

"""A server never outlives its trainer, however that ends, and leaves no process and no shared memory."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from llds.errors import SamplerError
from llds.samplers.vllm.server import supervisor as vllm_supervisor
from llds.samplers.vllm.server.process import OwnServers, ServerProcess, free_port

SERVER = """
import http.server, multiprocessing, os, sys, time
from multiprocessing.shared_memory import SharedMemory

def work(path):
    memory = SharedMemory(create=True, size=64)
    open(path, "w").write(f"{os.getpid()} {os.getppid()} {memory.name}")
    time.sleep(600)

class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *arguments):
        pass

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    context.Process(target=work, args=(sys.argv[1],)).start()
    http.server.HTTPServer(("127.0.0.1", int(sys.argv[2])), Healthy).serve_forever()
"""

TRAINER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from llds.samplers.vllm.server.process import ServerProcess
ServerProcess({command!r}, dict(__import__("os").environ), {url!r}, Path({log!r}))
time.sleep(600)
"""


def eventually(holds: Callable[[], bool], within_s: float = 20.0) -> bool:
    ends = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > ends:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture
def server(tmp_path: Path) -> tuple[list[str], str, Path]:
    """A command with a child of its own that holds shared memory, its address, and where the child says what it has."""
    script, said, port = tmp_path / "server.py", tmp_path / "said", free_port()
    script.write_text(SERVER)
    return [sys.executable, str(script), str(said), str(port)], f"http://127.0.0.1:{port}", said


def what_it_has(said: Path) -> tuple[list[int], Path]:
    assert eventually(lambda: said.exists() and len(said.read_text().split()) == 3, within_s=120.0)  # imports torch
    child, parent, memory = said.read_text().split()
    return [int(child), int(parent)], Path("/dev/shm") / memory  # noqa: S108 (where shared memory is)


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_closing_ends_all_of_a_server(server: tuple[list[str], str, Path], tmp_path: Path) -> None:
    command, url, said = server
    process = ServerProcess(command, dict(os.environ), url, tmp_path / "log")
    process.wait_until_ready(30.0)
    processes, memory = what_it_has(said)
    assert memory.exists()
    process.close()
    process.close()
    assert not any(alive(one) for one in processes)
    assert not memory.exists()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.nightly)])
def test_a_trainer_that_dies_takes_its_server_along(
    server: tuple[list[str], str, Path], tmp_path: Path, how: signal.Signals
) -> None:
    command, url, said = server
    root = str(Path(vllm_supervisor.__file__).parents[4])
    code = TRAINER.format(root=root, command=command, url=url, log=str(tmp_path / "log"))
    trainer = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stderr=subprocess.DEVNULL)
    processes, memory = what_it_has(said)
    if how == signal.SIGINT:  # as Ctrl-C, `timeout`, a closed terminal and SLURM do: the supervisor must not mind
        for number in (how, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            with suppress(ProcessLookupError):  # both have ended
                os.killpg(trainer.pid, number)
    else:
        trainer.send_signal(how)
    trainer.wait()
    assert eventually(lambda: not any(alive(one) for one in processes))
    assert eventually(lambda: not memory.exists())


@pytest.mark.slow
def test_when_the_first_process_dies_the_others_go_and_another_server_can_start(
    server: tuple[list[str], str, Path], tmp_path: Path
) -> None:
    command, _, said = server
    own = OwnServers(lambda port: [*command[:-1], str(port)], [dict(os.environ)], tmp_path, 30.0)
    try:
        first = own.start(())
        processes, memory = what_it_has(said)
        os.kill(processes[1], signal.SIGKILL)
        assert eventually(lambda: not own.running[0].is_running)
        assert not alive(processes[0])
        assert not memory.exists()
        second = own.start(())
        assert len(second) == 1
        assert second != first
        assert own.start(()) == second
        [hung] = psutil.Process(own.running[0].supervisor_id).children()
        hung.suspend()
        assert own.start(second) != second  # lost, though its process runs
        assert not hung.is_running()
    finally:
        own.close()


@pytest.mark.slow
def test_a_server_that_does_not_start_is_an_error_with_the_end_of_its_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such model')"]
    process = ServerProcess(command, dict(os.environ), "http://127.0.0.1:9", tmp_path / "log")
    with pytest.raises(SamplerError, match=r"it ended.*\n.*no such model"):
        process.wait_until_ready(30.0)


def test_a_server_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    process = ServerProcess(["sleep", "600"], dict(os.environ), "http://127.0.0.1:9", tmp_path / "log")
    with pytest.raises(SamplerError, match=r"no answer within 0\.5 s"):
        process.wait_until_ready(0.5)
    assert not process.is_running

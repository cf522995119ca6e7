"""Keeps a vLLM server from outliving its trainer. Run by path, with a command; needs nothing but Python.

vLLM's server is several processes and, killed by force, leaves some of them and their shared memory behind. This
process starts it in a session of its own and ends all of it, by force, as soon as standard input closes (the trainer is
done, or dead in whatever way) or the server's first process ends.
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

_FOR_THE_TRAINER = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
"""What Ctrl-C, ``timeout``, a terminal that closes and SLURM send to a whole group; it is not for this process."""
_POLL_S = 1.0
_CLEAN_UP_S = 10.0


def main(command: list[str]) -> int:
    """Run a command until it ends or standard input closes; returns its exit status."""
    for number in _FOR_THE_TRAINER:
        signal.signal(number, lambda *_: None)  # not SIG_IGN, which the server would inherit
    parent = os.getppid()
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603 (llds composed it)
    while server.poll() is None and os.getppid() == parent:
        if select.select([sys.stdin], [], [], _POLL_S)[0]:
            break
    end_session(server.pid)
    return server.wait()


def end_session(session: int) -> None:
    """Kill all processes of a session; Python's resource trackers last, which first remove shared memory."""
    _kill(session, lambda process: "resource_tracker" not in _command_line(process))
    deadline = time.monotonic() + _CLEAN_UP_S
    while _members(session) and time.monotonic() < deadline:
        time.sleep(0.05)
    _kill(session, lambda process: True)


def _kill(session: int, is_meant: Callable[[int], bool]) -> None:
    for process in _members(session):
        if is_meant(process):
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:  # it ended by itself
                continue


def _members(session: int) -> list[int]:
    """Living processes of a session."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()  # state, parent, group, session, ...
        except OSError:  # not a process, or one that ended
            continue
        if fields[3] == str(session) and fields[0] not in ("Z", "X"):
            found.append(int(folder.name))
    return found


def _command_line(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

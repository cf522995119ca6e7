"""One run in a folder at a time."""

import subprocess
import sys
from pathlib import Path

import pytest

from llds.callbacks import RunLock
from llds.errors import ConfigurationError
from tests.runs import answers, make_run, scripted

HOLD = """
import json, os, socket, sys, time
from filelock import FileLock
lock = FileLock(sys.argv[1] + "/.run.lock")
lock.acquire(timeout=0)
with open(sys.argv[1] + "/.run.json", "w") as file:
    json.dump({"pid": os.getpid(), "host": socket.gethostname()}, file)
print("held", flush=True)
time.sleep(600)
"""


def test_a_folder_in_which_another_process_trains_is_refused_until_that_is_gone(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        run = make_run(tmp_path, RunLock(), iterations=1, sampler=scripted(answers))
        with pytest.raises(ConfigurationError, match=rf"{tmp_path}, where process {other.pid} on \S+ trains"):
            run.fit()
        assert run.module.iteration == 0
    finally:
        other.kill()
        other.wait()
    make_run(tmp_path, RunLock(), iterations=1, sampler=scripted(answers)).fit()  # as a dead process keeps nothing
    assert not (tmp_path / ".run.json").exists()


def test_two_runs_of_one_process_are_two(tmp_path: Path) -> None:
    first, second = RunLock(), RunLock()
    first._take(tmp_path)
    with pytest.raises(ConfigurationError, match="Wait for it, or name another folder"):
        second._take(tmp_path)
    first._give_back()
    second._take(tmp_path)
    second._give_back()

"""Signals that stop a run, and the lock that keeps a second one out of its folder."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment

from llds.callbacks import GracefulStop, RunLock, Stopped, list_checkpoints
from llds.callbacks.checkpoint.stopping import _Deadline
from llds.errors import ConfigurationError
from llds.types import Trajectory
from tests.runs import FirstIsRight, Run, answers, by_iteration, make_run, scripted

NEVER_S = 1e6  # the deadline ends the process that runs the tests


class Signalled(FirstIsRight):
    """A signal when an iteration's trajectories are rewarded."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, trajectory: Trajectory) -> float:
        """Score, once."""
        if trajectory.policy_version == 2 and trajectory.index == 0:
            os.kill(os.getpid(), self.number)
        return super().__call__(trajectory)


@pytest.fixture(autouse=True)
def _restored_signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    yield
    assert {number: signal.getsignal(number) for number in before} == before


def made(folder: Path, **changes: Any) -> tuple[Run, GracefulStop]:
    stop = GracefulStop(NEVER_S)
    return make_run(folder, stop, **({"iterations": 4, "sampler": scripted(answers), "every": 100} | changes)), stop


def fit(run: Run, stop: GracefulStop, resume: bool = False) -> Run:
    with stop.handling(run.trainer, is_training=True):
        return run.fit(resume)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run that is never stopped."""
    return made(tmp_path_factory.mktemp("whole"))[0].fit()


def assert_resumed_run_equals(folder: Path, whole: Run) -> None:
    resumed = fit(*made(folder), resume=True)
    assert by_iteration(folder) == by_iteration(whole.folder)
    assert all(torch.equal(value, resumed.weights[name]) for name, value in whole.weights.items())


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_during_a_rollout_stops_at_once(tmp_path: Path, whole: Run, number: int, status: int) -> None:
    with pytest.raises(Stopped) as stopped:
        fit(*made(tmp_path, rollout={"reward": Signalled(number)}))
    assert stopped.value.code == status
    assert [path.name for path in list_checkpoints(tmp_path)] == ["iteration-000002.ckpt"]
    assert_resumed_run_equals(tmp_path, whole)


@pytest.mark.slow
def test_a_signal_during_the_updates_stops_after_them_with_a_checkpoint(tmp_path: Path, whole: Run) -> None:
    run, stop = made(tmp_path)
    after(run.module.gradients, "step", 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped) as stopped:
        fit(run, stop)
    assert stopped.value.code == 143
    assert run.module.iteration == 3
    assert [path.name for path in list_checkpoints(tmp_path)] == ["iteration-000003.ckpt"]
    assert_resumed_run_equals(tmp_path, whole)


@pytest.mark.slow
def test_a_signal_while_a_checkpoint_is_written_stops_before_the_next_iteration(tmp_path: Path, whole: Run) -> None:
    run, stop = made(tmp_path, every=2)
    after(run.trainer, "save_checkpoint", 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped):
        fit(run, stop)
    assert run.module.iteration == 2
    assert [path.name for path in list_checkpoints(tmp_path)] == ["iteration-000002.ckpt"]
    assert_resumed_run_equals(tmp_path, whole)


@pytest.mark.slow
def test_ctrl_c_twice_does_not_wait_for_the_updates(tmp_path: Path) -> None:
    run, stop = made(tmp_path)
    after(run.module.gradients, "step", 5, lambda: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)])
    with pytest.raises(Stopped) as stopped:
        fit(run, stop)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning ignores it for good while it shuts down
    assert stopped.value.code == 130
    assert run.module.iteration == 2
    assert list_checkpoints(tmp_path) == []  # there was none before, and half an update is no state


@pytest.mark.slow
def test_a_signal_during_the_last_iterations_updates_lets_the_run_end(tmp_path: Path) -> None:
    run, stop = made(tmp_path, iterations=2)
    after(run.module.gradients, "step", 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
    fit(run, stop)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["iteration-000002.ckpt"]


@pytest.mark.slow
def test_slurm_is_asked_to_start_the_job_again_after_the_checkpoint(
    tmp_path: Path, whole: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, run_folder = tmp_path / "asked", tmp_path / "run"
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {asked}\nls {run_folder}/checkpoints >> {asked}\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:{os.environ['PATH']}")
    task = {"NTASKS": "1", "JOB_ID": "77", "JOB_NAME": "train", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    for name, value in task.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    with pytest.raises(Stopped) as stopped:
        fit(*made(run_folder, rollout={"reward": Signalled(signal.SIGUSR1)}))
    assert stopped.value.code == 128 + signal.SIGUSR1
    assert asked.read_text() == "requeue 77\niteration-000002.ckpt\n"
    assert not list(run_folder.glob("hpc_ckpt*"))  # Lightning's own, of the middle of an iteration
    assert_resumed_run_equals(run_folder, whole)


def test_a_process_that_hangs_ends_within_the_deadline() -> None:
    process = os.fork()
    if process == 0:
        signal.signal(signal.SIGTERM, lambda *_: None)
        with _Deadline(0.2):
            os.kill(os.getpid(), signal.SIGTERM)
            while True:
                time.sleep(60)
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 143


def test_a_rank_that_lightning_started_leaves_the_status_to_the_first() -> None:
    """Lightning kills the first rank, in the middle of what it still writes, when another ends with a status."""
    for environment, local_rank, status in (
        (LightningEnvironment(), 0, 143),
        (LightningEnvironment(), 1, 0),
        (TorchElasticEnvironment(), 1, 143),
    ):
        found = SimpleNamespace(cluster_environment=environment)
        trainer: Any = SimpleNamespace(
            strategy=found, _accelerator_connector=found, local_rank=local_rank, is_global_zero=False
        )
        with pytest.raises(SystemExit) as ended, GracefulStop(NEVER_S).handling(trainer, is_training=True):
            raise Stopped(signal.SIGTERM)
        assert ended.value.code == status


def test_no_time_at_all_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"stopping\.within_s"):
        GracefulStop(0.0)


def after(owner: Any, name: str, calls: int, action: Callable[[], Any]) -> None:
    """Do something after the given call of a method."""
    method, count = getattr(owner, name), iter(range(1, 1000))

    def call(*args: Any, **named: Any) -> Any:
        result = method(*args, **named)
        if next(count) == calls:
            action()
        return result

    setattr(owner, name, call)


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


@pytest.mark.slow
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

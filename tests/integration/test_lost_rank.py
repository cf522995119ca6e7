"""A rank that dies ends the others soon and in one sentence, and the run goes on: through the command line."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file

pytestmark = pytest.mark.slow
pytest.importorskip("deepspeed")
ROOT = Path(__file__).parents[2]
ITERATIONS = 3


def command(folder: Path, corpus: Path, *arguments: str) -> list[str]:
    """`llds fit` with two processes, a checkpoint after every iteration."""
    overlay = folder / "every.yaml"
    every = {"class_path": "llds.callbacks.IterationCheckpoint", "init_args": {"every_n_iterations": 1}}
    export = {"class_path": "llds.callbacks.ExportPolicy"}
    overlay.write_text(yaml.safe_dump({"trainer": {"callbacks": [every, export], "enable_progress_bar": False}}))
    settings = {
        "--data.batch_size": "2",
        "--data.iterations": str(ITERATIONS),
        "--model.optimization.mini_batch_size": "1",
        "--rollout.group_size": "4",
        "--retrieval.retriever.path": str(folder / "index"),
        "--retrieval.retriever.corpus": str(corpus),
        "--trainer.default_root_dir": str(folder / "run"),
    }
    files = ["conf/quickstart.yaml", "conf/trainer/cpu_zero3.yaml", str(overlay)]
    options = [part for file in files for part in ("-c", file)]
    options += [part for setting in settings.items() for part in setting]
    return [sys.executable, "-m", "llds", "fit", *options, *arguments]


@contextmanager
def started(arguments: list[str]) -> Iterator[subprocess.Popen[str]]:
    """The run, in the project's folder; whatever happens, nothing of it is left."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(
        arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield run
    finally:
        if run.poll() is None:
            for process in (*psutil.Process(run.pid).children(recursive=True), run):
                process.kill()


def test_a_killed_rank_ends_the_run_which_then_goes_on(tmp_path: Path, corpus: Path) -> None:
    checkpoints = tmp_path / "run" / "checkpoints"
    with started(command(tmp_path, corpus)) as run:
        while not (checkpoints / "iteration-000001.ckpt").exists():
            assert run.poll() is None, run.communicate()[0]
            time.sleep(0.2)
        [other] = [child for child in psutil.Process(run.pid).children() if "fit" in child.cmdline()]
        other.kill()
        said = run.communicate(timeout=120)[0]  # it ends within seconds; a loaded machine takes longer
    assert run.returncode != 0
    if run.returncode == -signal.SIGKILL:  # Lightning, which looks every five seconds, saw it before rank 0 did
        assert "terminated with code -9. Forcefully terminating all other processes" in said, said[-3000:]
    else:
        assert "llds: Expected rank 0 to reach the others" in said, said[-3000:]
        assert "Another rank has died" in said
    assert "Traceback" not in said

    with started(command(tmp_path, corpus, "--ckpt_path", "last")) as again:
        said = again.communicate(timeout=400)[0]
    assert again.returncode == 0, said[-3000:]
    last = checkpoints / f"iteration-{ITERATIONS:06d}.ckpt"
    assert sorted(checkpoints.iterdir())[-1] == last

    exported = tmp_path / "exported"
    tool = [sys.executable, "-m", "llds", "export", str(last), str(exported)]
    done = subprocess.run(tool, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "run" / "policy", exported))
    assert ours.keys() == theirs.keys()
    heads = [(folder / "README.md").read_text().split("---\n")[1] for folder in (tmp_path / "run" / "policy", exported)]
    assert heads[0] == heads[1]
    assert f"iteration: {ITERATIONS}" in heads[0]
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())

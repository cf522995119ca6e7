"""Trainings of the campaign: ``llds fit`` on the shipped quickstart, small, in processes that can be killed.

A process is a fork of a server's that has imported what a training needs and runs nothing: it is as real as one of its
own, and costs a second instead of six. Where several ranks start each other, it is one of its own. This process is no
such server: it has threads, and two threads of a fork that touch torch's torn thread pool at once can find none.
"""

import functools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from multiprocessing.context import ForkServerContext
from pathlib import Path

import psutil
import torch

from llds.paths import resolve_path

ROOT = Path(__file__).parents[2]
SMALL = (
    "--data.batch_size=2",
    "--model.optimization.mini_batch_size=1",
    "--rollout.group_size=4",
    "--trainer.enable_progress_bar=false",
)
_IMPORTED = (
    "chromadb.api.client",
    "chromadb.api.rust",
    "llds.callbacks.checkpoint",
    "llds.cli.training.command",
    "llds.report",
    "peft",
    "tensorboard.compat.proto.event_pb2",
    "transformers.models.llama.modeling_llama",
    "wordllama",
)
_OVERLAY = """\
trainer:
  default_root_dir: {root}
  callbacks:
    - class_path: llds.callbacks.IterationCheckpoint
      init_args: {{every_n_iterations: {every}, keep_last: 2}}
    - class_path: llds.callbacks.ExportPolicy
{callbacks}
data:
  init_args: {{iterations: {iterations}}}
"""


def fit_arguments(
    root: Path,
    settings: Sequence[str] = (),
    *,
    iterations: int,
    every: int = 2,
    callbacks: str = "",
    config: str = "conf/quickstart.yaml",
    index: Path | None = None,
) -> list[str]:
    """The arguments of ``llds fit`` that begin a run in a folder, or go on with it.

    Args:
        root: The run's folder.
        settings: More of them; files (``-c``) among them are read before the run's own.
        iterations: Of the whole run.
        every: Iterations between two checkpoints.
        callbacks: More of them, as lines of YAML below ``trainer.callbacks``.
        config: What is trained.
        index: The retriever's folder; None is beside the run.
    """
    overlay = root.with_suffix(".yaml")
    overlay.write_text(_OVERLAY.format(root=root, every=every, iterations=iterations, callbacks=callbacks))
    files = [part for pair in pairwise(settings) if pair[0] == "-c" for part in pair]
    others = [one for number, one in enumerate(settings) if "-c" not in settings[max(0, number - 1) : number + 1]]
    place = index or root.with_suffix(".index")
    own = ["-c", str(overlay), "--ckpt_path", "last", "--retrieval.retriever.path", str(place)]
    return ["fit", "-c", config, *files, *own, *others]


def corpus(folder: Path) -> Path:
    """A small corpus: the passages that the first questions need, and some others."""
    path = folder / "corpus.jsonl"
    lines = resolve_path("llds:quickstart/train.jsonl").read_text().splitlines()[:24]
    wanted = {name for line in lines for name in json.loads(line)["supporting_ids"]}
    passages = resolve_path("llds:quickstart/corpus.jsonl").read_text().splitlines()
    kept = [line for number, line in enumerate(passages) if json.loads(line)["id"] in wanted or number % 40 == 0]
    path.write_text("\n".join(kept) + "\n")
    return path


class Fork:
    """A command of llds in a fork of the server; used like `subprocess.Popen`.

    Args:
        arguments: After ``llds``.
        log: What it says is added there.
    """

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self._process = _forkserver().Process(target=_child, args=(list(arguments), log))
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Its exit status, None while it runs."""
        return self.wait(0)

    def wait(self, timeout: float | None = None) -> int | None:
        """Its exit status when it has ended."""
        self._process.join(timeout)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.poll() is None and self.pid is not None:
            os.kill(self.pid, number)


def start(arguments: Sequence[str], log: Path) -> "Fork | subprocess.Popen[bytes]":
    """Start a command of llds: a fork, or, where several ranks start each other, a process of its own."""
    if not any("devices" in one or "conf/trainer" in one for one in arguments):
        return Fork(arguments, log)
    with log.open("ab") as file:
        return subprocess.Popen([sys.executable, "-m", "llds", *arguments], cwd=ROOT, stdout=file, stderr=file)


def finish(arguments: Sequence[str], log: Path, timeout_s: float = 300.0) -> int | None:
    """Run a command of llds to its end; returns its exit status, None where it had to be ended."""
    with ended(start(arguments, log)) as process:
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None


@contextmanager
def ended(process: "Fork | subprocess.Popen[bytes]") -> Iterator["Fork | subprocess.Popen[bytes]"]:
    """A process of which nothing is left at the end, its children included."""
    try:
        yield process
    finally:
        if process.poll() is None:
            for one in family(process):
                one.kill()
            process.wait(30)


def family(process: "Fork | subprocess.Popen[bytes]") -> list[psutil.Process]:
    """A process, if it still runs, and the ones that it has started."""
    try:
        whole = psutil.Process(process.pid or 0)
        return [*whole.children(recursive=True), whole]
    except psutil.NoSuchProcess:
        return []


@functools.cache
def _forkserver() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tools.campaign.training", *_IMPORTED])
    return context


def _child(arguments: list[str], log: Path) -> None:
    from llds.cli import main

    torch.set_num_threads(1)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever this process's parent made of it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.chdir(ROOT)
    sys.argv = ["llds", *arguments]
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    main()

"""Stop a training by signals at random moments, resume it each time, and compare it with one that was never stopped.

    python tools/kill_and_resume.py                        # 10 kills in 12 iterations of the quickstart
    python tools/kill_and_resume.py --kills 30 --iterations 40 --seed 1
    python tools/kill_and_resume.py --iterations 8 -- --model.llds_penalty.anchor lagged   # settings of llds fit
    python tools/kill_and_resume.py --signals TERM INT -- -c conf/rollout/overlap.yaml     # of Kubernetes, of Ctrl-C

Moments are spread over the phases of an iteration: rollout, scoring, update and the writing of a checkpoint. A
callback in the training says through a pipe which phase begins; the killer waits for the wanted phase and then for a
random share of its length. After SIGTERM and SIGINT the exit status must be 143 and 130. Metrics (all but ``time/``),
final weights, optimizer state and exported policy must be equal to the bit, and every checkpoint must load as plain
values.
Exit status 1 if anything differs.
"""

import argparse
import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

PHASES = ("rollout", "score", "update", "checkpoint")
_OVERLAY = """\
trainer:
  default_root_dir: {root}
  callbacks:
    - class_path: llds.callbacks.IterationCheckpoint
      init_args: {{every_n_iterations: {every}, keep_last: 2}}
    - class_path: llds.callbacks.ExportPolicy
    - class_path: tools.kill_and_resume.PhaseMarkers
      init_args: {{path: {pipe}}}
data:
  init_args: {{iterations: {iterations}}}
"""


class PhaseMarkers(pl.Callback):
    """Writes a line ``<phase> <iteration>`` whenever a phase begins.

    Args:
        path: File or pipe to write to.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Wrap what has no hooks around it."""
        self._file = open(self.path, "a", buffering=1)  # noqa: SIM115 (open until the process is killed)

        def marked(function: Callable[..., Any], before: str, after: str) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                self._mark(before, pl_module.iteration)
                result = function(*args, **kwargs)
                self._mark(after, pl_module.iteration)
                return result

            return call

        pl_module.prepare = marked(pl_module.prepare, "score", "update")
        trainer.save_checkpoint = marked(trainer.save_checkpoint, "checkpoint", "end")  # type: ignore[method-assign]

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Mark the rollout; this callback comes before `RolloutCallback`."""
        self._mark("rollout", pl_module.iteration)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """Mark the end."""
        self._mark("end", pl_module.iteration)

    def _mark(self, phase: str, iteration: int) -> None:
        self._file.write(f"{phase} {iteration}\n")


@dataclass
class Plan:
    """When to kill: in the first phase of this name in this iteration or later, after a share of its length."""

    phase: str
    iteration: int
    share: float
    signal: str = "KILL"

    @property
    def number(self) -> int:
        """Of the signal."""
        return int(signal.Signals[f"SIG{self.signal}"])

    def fits(self, status: int) -> bool:
        """Whether a process ended as the signal says; one that had all but ended when it came ends well."""
        return status in (0, -self.number if self.signal == "KILL" else 128 + self.number)


@dataclass
class Result:
    """What became of one process."""

    markers: list[tuple[float, str, int]] = field(default_factory=list)
    was_killed: bool = False
    exit_status: int = 0


def train(options: argparse.Namespace, root: Path, plan: Plan | None, lengths: dict[str, float]) -> Result:
    """Run ``llds fit`` on a folder, resuming what is there, until it ends or the plan kills it."""
    pipe = root.with_suffix(".pipe")
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe)
    overlay = root.with_suffix(".yaml")
    values = {"root": root, "pipe": pipe, "every": options.every, "iterations": options.iterations}
    overlay.write_text(_OVERLAY.format(**values))
    command = [sys.executable, "-m", "llds", "fit", "-c", options.config, "-c", str(overlay), "--ckpt_path", "last"]
    command += ["--retrieval.retriever.path", str(options.index), *options.settings]
    result = Result()
    with root.with_suffix(".log").open("a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        for phase, iteration in read_markers(pipe, process):
            result.markers.append((time.perf_counter(), phase, iteration))
            if plan is not None and phase == plan.phase and iteration >= plan.iteration:
                time.sleep(plan.share * lengths[phase])
                process.send_signal(plan.number)
                result.was_killed = True
                break
        result.exit_status = process.wait()
    return result


def read_markers(pipe: Path, process: "subprocess.Popen[bytes]") -> Iterator[tuple[str, int]]:
    """Yield the markers of a process until it ends."""
    descriptor = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # does not wait for a process that never opens it
    rest = b""
    try:
        while True:
            try:
                data = os.read(descriptor, 4096)
            except BlockingIOError:
                data = b""
            if not data:
                if process.poll() is not None:
                    return
                time.sleep(0.001)
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                phase, iteration = line.decode().split()
                yield phase, int(iteration)
    finally:
        os.close(descriptor)


def mean_lengths(markers: list[tuple[float, str, int]]) -> dict[str, float]:
    """Mean seconds of each phase."""
    spans: dict[str, list[float]] = defaultdict(list)
    for (start, phase, _), (end, _, _) in pairwise(markers):
        spans[phase].append(end - start)
    return {phase: sum(values) / len(values) for phase, values in spans.items()}


def make_plans(kills: int, iterations: int, seed: int, signals: Sequence[str]) -> list[Plan]:
    """Moments in the order of their iterations, each phase and each signal equally often."""
    draw = random.Random(seed)  # noqa: S311 (not a secret)
    phases = [PHASES[number % len(PHASES)] for number in range(kills)]
    draw.shuffle(phases)
    when = sorted(draw.randrange(iterations - 1) for _ in range(kills))
    chosen = [signals[number % len(signals)] for number in range(kills)]
    return [Plan(*one, draw.random(), name) for *one, name in zip(phases, when, chosen, strict=True)]


def read_metrics(root: Path) -> dict[str, dict[str, str]]:
    """Metrics by iteration, without times; of an iteration that was done twice, the last."""
    rows: dict[str, dict[str, str]] = {}
    for version in sorted((root / "csv").glob("version_*"), key=lambda folder: int(folder.name.split("_")[1])):
        if (version / "metrics.csv").is_file():
            with (version / "metrics.csv").open() as file:
                for row in csv.DictReader(file):
                    if None in row.values():
                        continue  # the process was killed in the middle of this line
                    kept = {key: value for key, value in row.items() if value and not key.startswith("time/")}
                    rows.setdefault(row["iteration"], {}).update(kept)
    return rows


def compare(whole: Path, killed: Path) -> list[str]:
    """What differs between the two runs, in words."""
    differences = []
    one, other = read_metrics(whole), read_metrics(killed)
    for iteration in sorted(one.keys() | other.keys(), key=float):
        a, b = one.get(iteration, {}), other.get(iteration, {})
        differences += [
            f"iteration {iteration}: {key} {a.get(key)} / {b.get(key)}"
            for key in sorted(a.keys() | b.keys())
            if a.get(key) != b.get(key)
        ]
    last = [max((root / "checkpoints").glob("iteration-*.ckpt")) for root in (whole, killed)]
    states = [torch.load(path, weights_only=True) for path in last]
    for state in states:
        state["search_agent"].pop("metrics")  # with times; compared above
    for name in ("state_dict", "optimizer_states", "lr_schedulers", "search_agent", "PromptDataModule"):
        differences += [f"checkpoint: {name}"] * (not is_equal(states[0][name], states[1][name]))
    for path in sorted((whole / "policy").iterdir()):
        twin = killed / "policy" / path.name
        differences += [f"policy/{path.name}"] * (not twin.is_file() or twin.read_bytes() != path.read_bytes())
    return differences


def is_equal(a: Any, b: Any) -> bool:
    """Whether two nested states are equal, tensors to the bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(is_equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(is_equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def parse() -> argparse.Namespace:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="number of kills")
    parser.add_argument("--iterations", type=int, default=12, help="rollout iterations of the run")
    parser.add_argument("--every", type=int, default=2, help="iterations between two checkpoints")
    parser.add_argument("--signals", nargs="+", default=["KILL"], choices=["KILL", "TERM", "INT"], help="in turn")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--config", default="conf/quickstart.yaml", help="configuration of the run")
    parser.add_argument("--folder", type=Path, default=Path("runs/kill_and_resume"), help="is deleted first")
    parser.add_argument("--index", type=Path, help="retriever's index; default: in the folder")
    parser.add_argument("settings", nargs="*", help="settings of llds fit, after --")
    options = parser.parse_args()
    options.folder = options.folder.absolute()
    options.index = options.index or options.folder / "index"
    return options


def main() -> None:
    """Train twice, once with kills, and print what came of it."""
    options = parse()
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    whole, killed = options.folder / "whole", options.folder / "killed"
    started = time.perf_counter()
    reference = train(options, whole, None, {})
    if reference.exit_status:
        sys.exit(f"The run that is never killed failed: see {whole.with_suffix('.log')}")
    lengths = mean_lengths(reference.markers)
    spent = ", ".join(f"{phase} {lengths[phase]:.2f}" for phase in PHASES)
    print(
        f"{options.iterations} iterations without a kill: {time.perf_counter() - started:.0f} s; mean seconds: {spent}"
    )
    print(f"{'kill':>4}  {'signal':<6}  {'phase':<10}  {'iteration':>9}  {'share':>5}  resumed from")
    kills = 0
    for number, plan in enumerate(make_plans(options.kills, options.iterations, options.seed, options.signals), 1):
        result = train(options, killed, plan, lengths)
        kills += result.was_killed
        _, phase, iteration = result.markers[-1] if result.markers else (0.0, "start", -1)
        checkpoints = sorted((killed / "checkpoints").glob("iteration-*.ckpt"))
        source = checkpoints[-1].name if checkpoints else "the beginning"
        if not (plan.fits(result.exit_status) if result.was_killed else result.exit_status == 0):
            sys.exit(f"A run ended with status {result.exit_status}: see {killed.with_suffix('.log')}")
        for path in checkpoints:
            torch.load(path, weights_only=True)
        iteration += phase in ("start", "rollout", "score", "update")  # markers count iterations that are done
        print(f"{number:>4}  {plan.signal:<6}  {phase:<10}  {iteration:>9}  {plan.share:>5.2f}  {source}", flush=True)
    last = train(options, killed, None, {})
    if last.exit_status:
        sys.exit(f"The last resumed run failed: see {killed.with_suffix('.log')}")
    differences = compare(whole, killed)
    columns = len({key for row in read_metrics(whole).values() for key in row})
    verdict = f"{len(differences)} differences" if differences else "equal to the bit"
    print(
        f"{kills} kills, {len(read_metrics(whole))} iterations x {columns} metrics, final state and policy: {verdict}"
    )
    for line in differences[:20]:
        print(f"  {line}")
    sys.exit(1 if differences else 0)


if __name__ == "__main__":
    main()

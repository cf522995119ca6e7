"""Does an iteration that overlaps with the next one's rollout take as long as the longer of the two, not as their sum?

Run from the repository root (a few minutes; two idle cores, or ``nice`` rights, make the figures mean something)::

    python tools/bench/rollout/overlap.py                    # the policy samples in a thread of the trainer's process
    python tools/bench/rollout/overlap.py --sampler vllm     # a vLLM server samples, a process of its own

The quickstart's training, first one after the other, then overlapped, in processes of their own that take turns. With
vLLM the trainer has one core and the server another; otherwise both cores are the process's. Prints medians over the
iterations after the first two: seconds of the sampling itself, of training (scoring and updates), of the whole
iteration; how long the iteration is against the sum and against the longer of the two; and the reward, last ten mean.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

_OVERLAY = """\
trainer:
  default_root_dir: {root}
  enable_progress_bar: false
  logger: false
  callbacks:
    - class_path: tools.bench.rollout.overlap.IterationTimes
      init_args: {{path: {table}, pin_to: {pin_to}}}
data: {{init_args: {{iterations: {iterations}}}}}
rollout: {{overlap: {overlap}}}
model: {{init_args: {{importance_correction: {{level: token, cap: 2.0}}}}}}
"""
_SKIPPED = 2


class IterationTimes(pl.Callback):
    """Writes a row of times for each iteration.

    Args:
        path: CSV file to write.
        pin_to: Core for this process, the other cores for its children; None leaves them alone.
    """

    def __init__(self, path: str, pin_to: int | None = None) -> None:
        self.path = Path(path)
        self.pin_to = pin_to
        self.last = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Write the row."""
        if batch_idx == 0 and self.pin_to is not None:
            pin(self.pin_to)
        now = time.perf_counter()
        row = {key: batch.metrics[f"time/{key}_s"] for key in ("sampling", "rollout", "score", "update")}
        row |= {"iteration": now - self.last, "reward": batch.metrics["reward/mean"]}
        self.last = now
        is_new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row.keys())
            if is_new:
                writer.writeheader()
            writer.writerow(row)


def pin(core: int) -> None:
    """Give this process a core, and its descendants all others."""
    others = set(range(os.cpu_count() or 1)) - {core}
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue  # it has ended
        parents.setdefault(int(fields[1]), []).append(int(folder.name))
    below, waiting = [], [os.getpid()]
    while waiting:
        children = parents.get(waiting.pop(), [])
        below += children
        waiting += children
    for process, cores in [(os.getpid(), {core}), *((child, others) for child in below)]:
        for task in Path(f"/proc/{process}/task").iterdir():
            os.sched_setaffinity(int(task.name), cores)


def train(options: argparse.Namespace, folder: Path, overlap: bool) -> list[dict[str, float]]:
    """Run ``llds fit`` and return its rows."""
    name = f"{time.monotonic_ns()}"
    table, overlay = folder / f"{name}.csv", folder / f"{name}.yaml"
    values = {
        "root": folder / name,
        "table": table,
        "pin_to": 0 if options.sampler == "vllm" else "null",
        "iterations": options.iterations,
        "overlap": str(overlap).lower(),
    }
    overlay.write_text(_OVERLAY.format(**values))
    configs = ["conf/quickstart.yaml", *(["conf/rollout/vllm_server.yaml"] if options.sampler == "vllm" else [])]
    command = [sys.executable, "-m", "llds", "fit", *(part for path in (*configs, overlay) for part in ("-c", path))]
    command += ["--retrieval.retriever.path", options.index or folder / "index", *options.settings]
    with (folder / "log").open("w") as log:
        status = subprocess.run(list(map(str, command)), stdout=log, stderr=log, check=False).returncode
    if status:
        sys.exit(f"The run failed:\n{(folder / 'log').read_text()[-3000:]}")
    with table.open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sampler", choices=("transformers", "vllm"), default="transformers")
    parser.add_argument("--iterations", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--index", type=Path, help="the retriever's index; default: built anew")
    parser.add_argument("settings", nargs="*", help="settings of llds fit, after --")
    options = parser.parse_args()
    rows: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    rewards: dict[bool, list[float]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.repeats):
            for overlap in rows:
                found = train(options, Path(folder), overlap)
                rows[overlap] += found[_SKIPPED:-1]  # nothing is sampled beside the last
                rewards[overlap] += [row["reward"] for row in found[-10:]]
    names = ("sampling", "training", "iteration", "of the sum", "of the longer")
    print(f"{'':15}" + "".join(f"{name:>14}" for name in names) + f"{'reward':>10}   load {os.getloadavg()[0]:.1f}")
    for overlap, kept in rows.items():
        sampling, wall = (statistics.median(row[key] for row in kept) for key in ("sampling", "iteration"))
        training = statistics.median(row["score"] + row["update"] for row in kept)
        figures = (sampling, training, wall, wall / (sampling + training), wall / max(sampling, training))
        name = "overlapped" if overlap else "in turns"
        print(
            f"{name:15}" + "".join(f"{value:14.2f}" for value in figures) + f"{statistics.mean(rewards[overlap]):10.3f}"
        )


if __name__ == "__main__":
    main()

"""What over-sampling costs and brings: groups with a signal, sampling, reward at equal iterations and processor time.

Run from the repository root (ten minutes of one idle core)::

    python tools/bench/rollout/oversampling.py
    python tools/bench/rollout/oversampling.py --seeds 3 4 --iterations 20 -- --rollout.limits.turns 4     # of llds fit

The quickstart's training without and with `rollout.oversampling`, in processes of one thread that follow each other.
Rewards are the mean of all that was sampled (`reward/mean`), which no setting filters. Prints, for each setting, the
mean over the seeds with the lowest and the highest: groups with a signal that an iteration trained on; groups that it
drew; processor seconds of an iteration; the reward of the last four of `--iterations`; and that of the last four that
ended within the processor time that the run without it took for as many.
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
    - class_path: tools.bench.rollout.oversampling.Costs
      init_args: {{path: {table}}}
seed_everything: {seed}
data: {{init_args: {{iterations: {iterations}, seed: {seed}}}}}
model: {{init_args: {{seed: {seed}}}}}
rollout: {{seed: {seed}, oversampling: {oversampling}}}
"""
SETTINGS = {
    "without": "null",
    "drop": "{max_factor: 3.0, without_signal: drop}",
    "keep_correct": "{max_factor: 3.0, without_signal: keep_correct}",
    "keep": "{max_factor: 3.0, without_signal: keep}",
}
_LAST = 4

Rows = list[dict[str, float]]


class Costs(pl.Callback):
    """Writes a row for each iteration.

    Args:
        path: CSV file to write.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._begun = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Start counting: importing and loading are not the iterations'."""
        self._begun = time.process_time()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Write the row."""
        found, asked = batch.metrics, trainer.datamodule.batch_size  # type: ignore[attr-defined]
        drawn = found.get("rollout/groups_drawn", asked)
        row = {
            "processor": time.process_time() - self._begun,
            "drawn": drawn,
            "signal": min(asked, round(found["reward/informative_groups"] * drawn)),
            "reward": found["reward/mean"],
        }
        is_new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row.keys())
            if is_new:
                writer.writeheader()
            writer.writerow(row)


def train(options: argparse.Namespace, folder: Path, setting: str, seed: int) -> Rows:
    """Run ``llds fit`` and return its rows."""
    name = f"{setting}-{seed}"
    table, overlay = folder / f"{name}.csv", folder / f"{name}.yaml"
    values = {"root": folder / name, "table": table, "seed": seed, "iterations": options.iterations}
    overlay.write_text(_OVERLAY.format(**values, oversampling=SETTINGS[setting]))
    command = [sys.executable, "-m", "llds", "fit", "-c", "conf/quickstart.yaml", "-c", overlay]
    command += ["--retrieval.retriever.path", options.index or folder / "index", *options.settings]
    with (folder / "log").open("w") as log:
        one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
        status = subprocess.run(list(map(str, command)), stdout=log, stderr=log, check=False, env=one_thread).returncode
    if status:
        sys.exit(f"The run failed:\n{(folder / 'log').read_text()[-3000:]}")
    with table.open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def figures(rows: Rows, budget: float) -> list[float]:
    """What a run comes to, with the processor time that it may be compared at."""
    within = [row["reward"] for row in rows if row["processor"] <= budget][-_LAST:]
    return [
        statistics.mean(row["signal"] for row in rows),
        statistics.mean(row["drawn"] for row in rows),
        rows[-1]["processor"] / len(rows),
        statistics.mean(row["reward"] for row in rows[-_LAST:]),
        statistics.mean(within) if within else float("nan"),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=16)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--settings-of", nargs="+", choices=SETTINGS, default=["without", "drop", "keep_correct"])
    parser.add_argument("--index", type=Path, help="the retriever's index; default: built anew")
    parser.add_argument("--keep", type=Path, help="folder for the rows of every iteration; default: a temporary one")
    parser.add_argument("settings", nargs="*", help="settings of llds fit, after --")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        found: dict[str, list[list[float]]] = {setting: [] for setting in options.settings_of}
        for seed in options.seeds:
            runs = {setting: train(options, folder, setting, seed) for setting in found}
            budget = next(iter(runs.values()))[-1]["processor"]
            for setting, rows in runs.items():
                found[setting].append(figures(rows, budget))
                print(
                    f"seed {seed} {setting:14}" + "".join(f"{value:12.3f}" for value in found[setting][-1]), flush=True
                )
    names = ("with signal", "drawn", "processor s", "reward", "reward at equal s")
    print(f"\n{'':14}" + "".join(f"{name:>26}" for name in names))
    for setting, of_seeds in found.items():
        cells = [f"{statistics.mean(v):.3f} ({min(v):.3f}-{max(v):.3f})" for v in zip(*of_seeds, strict=True)]
        print(f"{setting:14}" + "".join(f"{cell:>26}" for cell in cells))


if __name__ == "__main__":
    main()

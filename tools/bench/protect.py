"""How much of its peak reward a run keeps with conf/collapse/protect.yaml, and without.

Pairs of quickstart trainings that differ in the ladder alone, at learning rates at which the quickstart collapses:

    python tools/bench/protect.py --folder runs/protect --seeds 0 1 2 --rates 1e-3 2e-3 --iterations 40

Runs that are there already are not made again. The table says for each run: the peak of the reward (mean over 9
iterations), what is left of it at the end, the iterations at which the ladder acted, and where it went back to.
"""

import argparse
import csv
import itertools
import subprocess
import sys
from pathlib import Path

from llds.monitor.hindsight import WINDOW

LADDERS = ("warn", "protect")


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/protect"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 2e-3])
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("rest", nargs="*", help="more arguments of llds fit, after --")
    given = parser.parse_args()
    print(
        "| learning rate | seed | ladder | peak | end | kept | acted at | back to |\n|---|---|---|---|---|---|---|---|"
    )
    for rate, seed, ladder in itertools.product(given.rates, given.seeds, LADDERS):
        folder = given.folder / f"lr{rate:g}-seed{seed}-{ladder}"
        if not (folder / "done").exists():
            train(folder, rate, seed, ladder, given)
        print(row(folder, rate, seed, ladder), flush=True)


def train(folder: Path, rate: float, seed: int, ladder: str, given: argparse.Namespace) -> None:
    """One training, in a process of its own; its output is in the folder."""
    seeds = ("--seed_everything", "--model.seed", "--data.seed", "--rollout.seed")
    command = [sys.executable, "-m", "llds", "fit", "-c", "conf/quickstart.yaml", "-c", f"conf/collapse/{ladder}.yaml"]
    command += ["--trainer.default_root_dir", str(folder), "--model.optimization.learning_rate", str(rate)]
    command += ["--data.iterations", str(given.iterations), *given.rest]
    command += [part for key in seeds for part in (key, str(seed))]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "output.txt").open("w") as log:
        status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    if status not in (0, 3):
        sys.exit(f"{' '.join(command)}\nended with {status}: {folder / 'output.txt'}")
    (folder / "done").write_text(f"{status}\n")


def row(folder: Path, rate: float, seed: int, ladder: str) -> str:
    """The run as a row of the table."""
    with (folder / "csv" / "version_0" / "metrics.csv").open() as file:
        table = [row for row in csv.DictReader(file) if row["reward/mean"]]
    rewards = [float(row["reward/mean"]) for row in table]
    means = [sum(rewards[at - WINDOW : at]) / WINDOW for at in range(WINDOW, len(rewards) + 1)]
    acted = [f"{float(row['iteration']):.0f}" for row in table if float(row["collapse/actions"]) > 0]
    back = [f"{float(row['collapse/back_to']):.0f}" for row in table if row.get("collapse/back_to")]
    stopped = " (stopped)" if (folder / "done").read_text() == "3\n" else ""
    cells = [f"{rate:g}", f"{seed}", ladder, f"{max(means):.3f}", f"{means[-1]:.3f}", f"{means[-1] / max(means):.0%}"]
    return f"| {' | '.join([*cells, ' '.join(acted) + stopped, ' '.join(back)])} |"


if __name__ == "__main__":
    main()

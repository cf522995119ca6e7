"""Study 3, full trainings: lambda x learning rate x seed, on either task.

    python -m tools.experiments.full_runs small --learning-rates 1e-3 --lambdas 0 0.2 --seeds 100 101

Writes a record for each run into `tools/experiments/records/full/` and passes over those that are there already, so a
study that was interrupted goes on. Several runs share a process; each is reproducible by itself.
"""

import argparse
import itertools
import time
from pathlib import Path

import torch

from tools.experiments.recording import RECORDS, FixedSet, Record, correct_trajectories, write_rows
from tools.experiments.tasks import TASKS, RandomReward, Settings, Task, train

ITERATIONS = {"small": 40, "quickstart": 20}


def run(task: Task, settings: Settings, fixed: FixedSet) -> list[dict[str, float]]:
    """Train once; the signals of each iteration."""
    record = Record()
    train(task, settings, [fixed, record])
    return record.rows


def main() -> None:
    """Train all combinations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=list(TASKS))
    parser.add_argument("--learning-rates", type=float, nargs="+", required=True)
    parser.add_argument("--lambdas", type=float, nargs="+", default=[0.0, 0.2])
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--anchor", choices=["old", "lagged", "frozen"], default="old")
    parser.add_argument("--preserve", choices=["non_negative", "positive"], default="non_negative")
    parser.add_argument("--random-reward", action="store_true", help="study 2: the reward is a coin")
    parser.add_argument("--kl", type=float, default=0.0, help="coefficient of the KL penalty")
    parser.add_argument("--iterations", type=int)
    parser.add_argument("--output", type=Path, default=RECORDS / "full")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    task, fixed = TASKS[arguments.task], None
    iterations = arguments.iterations or ITERATIONS[task.name]
    anchor = {"anchor": "old"} if arguments.anchor == "old" else {"anchor": "lagged"}
    anchor |= {"anchor_lag": 10**6} if arguments.anchor == "frozen" else {}
    # Seeds outermost: an interrupted study has all settings for the seeds that it has.
    for seed, rate, coefficient in itertools.product(arguments.seeds, arguments.learning_rates, arguments.lambdas):
        variant = "".join(
            f"-{word}"
            for word, wanted in (
                (arguments.anchor, arguments.anchor != "old"),
                (arguments.preserve, arguments.preserve != "non_negative"),
                (f"kl{arguments.kl:g}", arguments.kl > 0),
            )
            if wanted
        )
        path = arguments.output / f"{task.name}-lr{rate:g}-lambda{coefficient:g}{variant}-seed{seed}.csv.gz"
        if path.exists():
            continue
        fixed = fixed or FixedSet(correct_trajectories(task))
        llds = {"coefficient": coefficient, "preserve": arguments.preserve, **anchor}
        reward = RandomReward() if arguments.random_reward else None
        started = time.process_time()
        rows = run(task, Settings(rate, llds, iterations, seed, arguments.kl, reward), fixed)
        write_rows(path, rows)
        rewards = [row["reward/mean"] for row in rows]
        print(
            f"{path.name}: reward {sum(rewards[:3]) / 3:.2f} -> best 5 {best(rewards, 5):.2f}, last 10 "
            f"{sum(rewards[-10:]) / 10:.2f}; fixed set {rows[0]['policy/fixed_log_likelihood']:.2f} -> "
            f"{rows[-1]['policy/fixed_log_likelihood']:.2f}; {time.process_time() - started:.0f} CPU s",
            flush=True,
        )


def best(values: list[float], width: int) -> float:
    """The largest mean of `width` values in a row."""
    return max(sum(values[at : at + width]) / width for at in range(len(values) - width + 1))


if __name__ == "__main__":
    main()

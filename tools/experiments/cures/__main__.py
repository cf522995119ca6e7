"""The bench of cures on the small task, run by run.

    python -m tools.experiments.cures                          # what is left of everything: hours on two cores
    python -m tools.experiments.cures --entries grpo llds_1 early+llds --seeds 100 101
    python -m tools.experiments.cures --usual --rates 1e-3     # each knob at its usual value, without the choice
    python -m tools.experiments.cures --pairs                  # then the three best, with LLDS on top
    python -m tools.experiments.cures --on quickstart          # another task: also wide, and erosion (random rewards)
    python -m tools.experiments.cures --list                   # what is left, and nothing is run

Each cure chooses the value of its knob among three, on seeds apart; then come fresh seeds at three learning rates: five
for each cure in the order of the arguments, then five more. A run that is recorded in `tools/experiments/records/cures`
is passed over, so an interrupted bench goes on; several processes can share one. `python -m tools.experiments.analyse`
then computes docs/cures.md.
"""

import argparse
import shutil
import time
from collections.abc import Callable, Iterator

import torch

from tools.experiments.cures.entries import ANSWER, BY_NAME, PAIR, entry_of
from tools.experiments.cures.regimes import REGIMES
from tools.experiments.cures.runs import (
    PAIRS,
    SECONDS,
    SIGNALS,
    STUDY,
    USUAL,
    USUAL_SEEDS,
    Job,
    best,
    left,
    recorded,
)
from tools.experiments.full_runs import claimed, protection
from tools.experiments.recording import FixedSet, Record, Row, correct_trajectories
from tools.experiments.tasks import RUNS, RandomReward, Settings, train


def settings(job: Job) -> Settings:
    """Of a training."""
    changes, regime = entry_of(job.entry).make(job.value), REGIMES[job.regime]
    rate = job.rate * changes.rate
    reward = RandomReward(job.seed) if regime.has_random_reward else changes.reward
    return Settings(rate, dict(changes.llds), regime.iterations, job.seed, changes.kl, reward, module=changes.module)


def run(job: Job) -> list[Row]:
    """Train once; what is kept of each iteration."""
    task = REGIMES[job.regime].task
    fixed = FixedSet(correct_trajectories(task))
    record, folder, started = Record(), RUNS / "work" / job.name, time.process_time()
    ladder = entry_of(job.entry).make(job.value).ladder
    train(task, settings(job), [fixed, *(protection(ladder) if ladder else []), record], folder)
    shutil.rmtree(folder, ignore_errors=True)
    seconds = time.process_time() - started
    for row in record.rows:
        row["reward/mean"] = row.get(f"reward/{ANSWER}/mean", row["reward/mean"])
    return [
        {name: row[name] for name in ("iteration", *SIGNALS) if name in row} | ({SECONDS: seconds} if not at else {})
        for at, row in enumerate(record.rows)
    ]


def bench(remaining: Callable[[], Iterator[Job]]) -> None:
    """Do what is left, until nothing is."""
    passed: set[Job] = set()  # another process has them
    while job := next((one for one in remaining() if one not in passed), None):
        with claimed(f"cures-{job.name}") as is_mine:
            if not is_mine:
                passed.add(job)
                continue
            if not STUDY.has(job.name):
                rows = run(job)
                STUDY.add(job.name, rows)
                rewards = [row["reward/mean"] for row in rows]
                print(f"{job.name}: last 10 {sum(rewards[-10:]) / 10:.2f}; {rows[0][SECONDS]:.0f} CPU s", flush=True)
    STUDY.pack()


def main() -> None:
    """Do what is left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [*BY_NAME, *(name + PAIR for name in BY_NAME)]
    parser.add_argument("--entries", nargs="+", choices=known, default=list(BY_NAME), metavar="CURE")
    parser.add_argument("--on", choices=list(REGIMES), default=USUAL, help=f"the task ({USUAL})")
    parser.add_argument("--seeds", nargs="+", type=int, help=f"of the task's ({USUAL_SEEDS} of them)")
    parser.add_argument("--rates", nargs="+", type=float, help="of the task's (all)")
    parser.add_argument("--usual", action="store_true", help="each knob at its usual value, without the choice")
    parser.add_argument("--pairs", nargs="?", type=int, const=PAIRS, help="so many of the best, with LLDS on top (3)")
    parser.add_argument("--list", action="store_true", dest="is_listed", help="name what is left to run now")
    options = parser.parse_args()
    regime = REGIMES[options.on]
    seeds, rates = options.seeds or regime.seeds[:USUAL_SEEDS], options.rates or regime.rates
    if not set(seeds) <= set(regime.seeds) or not set(rates) <= set(regime.rates):
        parser.error(f"Expected --seeds of {regime.seeds} and --rates of {regime.rates} on {options.on}.")
    torch.set_num_threads(1)
    names = best(options.entries, recorded(), options.pairs) if options.pairs else options.entries

    def remaining() -> Iterator[Job]:
        return left(names, seeds, rates, recorded(), options.usual, options.on)

    if options.is_listed:
        print("\n".join(job.name for job in remaining()))
        return
    bench(remaining)


if __name__ == "__main__":
    main()

"""Studies 2 and 3: full trainings, by lambda, learning rate, anchor and seed.

    python -m tools.experiments.full_runs full          # study 3 on the small task
    python -m tools.experiments.full_runs more          # twenty seeds more of its middle
    python -m tools.experiments.full_runs positive      # A > 0, or a frozen anchor
    python -m tools.experiments.full_runs longer        # three times as long at its lowest rate
    python -m tools.experiments.full_runs wide          # four times the trajectories an iteration: the slow fall
    python -m tools.experiments.full_runs sampled       # some of these with the signals as llds fit measures them
    python -m tools.experiments.full_runs unsampled     # with the signals of observations and control tokens
    python -m tools.experiments.full_runs further       # runs that held, longer: were alarms false, or early?
    python -m tools.experiments.full_runs erosion       # study 2: random rewards
    python -m tools.experiments.full_runs quickstart    # study 3 on the quickstart's agent
    python -m tools.experiments.full_runs protect       # the runs that fall, with conf/collapse/protect.yaml

Each training leaves a record in the study `tools/experiments/records/STUDY` (`tools/study.py`), which is packed at the
end; runs that are there already are passed over, so a study that was interrupted goes on, and several processes can
share one. Every run is reproducible by itself.
"""

import argparse
import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from jsonargparse import ArgumentParser

from llds.callbacks import CollapseMonitor, IterationCheckpoint
from tools.experiments.recording import RECORDS, FixedSet, Record, Row, correct_trajectories
from tools.experiments.tasks import QUICKSTART, RUNS, SMALL, WIDE, RandomReward, Settings, Task, train
from tools.study import Study

LOWEST, MIDDLE, HIGHEST = 5e-4, 1e-3, 1.5e-3
"""Learning rates of the small task, chosen on a seed that is not used: it held at the first and fell at the others."""

VARIANTS: dict[str, dict[str, Any]] = {
    "": {},
    "positive": {"preserve": "positive"},
    "lagged": {"anchor": "lagged", "anchor_lag": 4},
    "frozen": {"anchor": "lagged", "anchor_lag": 10**6},
    "sampled": {},
    "unsampled": {},
}
"""Arguments of the LLDS penalty that differ from its defaults; a lag beyond the end of the run freezes the anchor.
``sampled`` changes nothing of the training: its signals are of few trajectories, as in `llds fit`. Nor does
``unsampled``, which has the signals of observations and control tokens too."""
SAMPLED_SHARE = 0.025


@dataclass(frozen=True)
class Job:
    """A training of a study.

    Attributes:
        task: What is trained.
        rate: Learning rate.
        coefficient: Lambda.
        seed: Of the run.
        variant: One of `VARIANTS`.
        iterations: Length.
        has_random_reward: Whether the reward is a coin.
        is_protected: Whether `conf/collapse/protect.yaml` acts on it.
    """

    task: Task
    rate: float
    coefficient: float
    seed: int
    variant: str = ""
    iterations: int = 32
    has_random_reward: bool = False
    is_protected: bool = False

    @property
    def name(self) -> str:
        """Of its record."""
        variant = f"-{self.variant}" if self.variant else ""
        return f"{self.task.name}-lr{self.rate:g}-lambda{self.coefficient:g}{variant}-seed{self.seed}"

    @property
    def settings(self) -> Settings:
        """Of the training."""
        llds = {"coefficient": self.coefficient, **VARIANTS[self.variant]}
        reward = RandomReward(self.seed) if self.has_random_reward else None
        share = SAMPLED_SHARE if self.variant == "sampled" else 1.0
        unsampled = self.variant == "unsampled"
        return Settings(
            self.rate, llds, self.iterations, self.seed, reward=reward, rescored_share=share, unsampled=unsampled
        )


def full(seeds: range = range(100, 110)) -> Iterator[Job]:
    """Study 3, what matters most first: an interrupted study is a smaller one."""
    for seed in seeds:
        for rate in (MIDDLE, HIGHEST, LOWEST):
            yield from (Job(SMALL, rate, value, seed) for value in (0.0, 0.2))
    for seed in seeds:
        yield from (Job(SMALL, HIGHEST, value, seed) for value in (0.01, 0.1, 1.0))
        yield from (Job(SMALL, MIDDLE, value, seed) for value in (1.0, 0.1, 0.01))
    yield from (Job(SMALL, LOWEST, value, seed) for seed in seeds for value in (1.0, 0.1, 0.01))


def more(seeds: range = range(110, 130)) -> Iterator[Job]:
    """Twenty seeds more of the comparison that ten could not decide (1 collapse of 10 against 6, p = 0.06)."""
    for seed in seeds:
        yield from (Job(SMALL, MIDDLE, value, seed) for value in (0.0, 0.2))


def longer(seeds: range = range(100, 110)) -> Iterator[Job]:
    """Three times as long at the rate at which nothing collapses: does it cure, or delay?"""
    for seed in seeds:
        yield from (Job(SMALL, LOWEST, value, seed, iterations=96) for value in (0.0, 0.2))


def wide(seeds: range = range(500, 510)) -> Iterator[Job]:
    """The paper's course at our scale: likelihood decays for tens of iterations before reward falls."""
    for seed in seeds:
        for rate in (MIDDLE, LOWEST, HIGHEST):
            yield from (Job(WIDE, rate, value, seed, iterations=96) for value in (0.0, 0.2))


def sampled(seeds: range = range(506, 509)) -> Iterator[Job]:
    """Runs of the wide study again, with the signals of a sample of the trajectories that `llds fit` takes."""
    for seed in seeds:
        yield from (Job(WIDE, rate, 0.0, seed, "sampled", 96) for rate in (MIDDLE, LOWEST))


def unsampled(seeds: range = range(100, 102)) -> Iterator[Job]:
    """Runs of study 3 again, with the signals of observations and control tokens: do these lead?"""
    yield from (Job(SMALL, rate, 0.0, seed, "unsampled", 24) for seed in seeds for rate in (HIGHEST, LOWEST))


def further() -> Iterator[Job]:
    """Runs of study 3 that held, longer: were alarms false, or early?

    Of 32 iterations all six in which the detector had raised an alarm, and three of those in which it had not; of 96
    iterations the two with an alarm.
    """
    alarmed = ((1e-3, 0.01, "", 100), (1e-3, 0.01, "", 102), (1e-3, 0.2, "positive", 100), (1e-3, 1.0, "positive", 107),
               (1e-3, 1.0, "positive", 109), (1.5e-3, 0.2, "frozen", 107))  # fmt: skip
    quiet = ((1e-3, 1.0, "positive", 100), (1e-3, 1.0, "positive", 105), (1e-3, 1.0, "positive", 106))
    for rate, value, variant, seed in (*alarmed, *quiet):
        yield Job(SMALL, rate, value, seed, variant, iterations=96)
    yield Job(WIDE, MIDDLE, 0.0, 503, iterations=160)
    yield Job(WIDE, MIDDLE, 0.2, 504, iterations=160)


def positive(seeds: range = range(100, 110)) -> Iterator[Job]:
    """Study 3 with the preserved set A > 0, and with a frozen anchor."""
    for seed in seeds:
        yield from (Job(SMALL, rate, value, seed, "positive") for value in (0.2, 1.0) for rate in (HIGHEST, MIDDLE))
        yield Job(SMALL, HIGHEST, 0.2, seed, "frozen")


def erosion(seeds: range = range(300, 304)) -> Iterator[Job]:
    """Study 2: lambda and the anchor, under a reward that teaches nothing."""
    settings = [(0.0, ""), (0.2, ""), (1.0, ""), (0.2, "frozen"), (1.0, "frozen"), (0.2, "lagged"), (5.0, "")]
    for seed in seeds:
        yield from (Job(SMALL, MIDDLE, value, seed, variant, 40, True) for value, variant in settings)


def protect() -> Iterator[Job]:
    """The plain runs of study 3 that may fall, under the ladder; longer, so that what falls late can come back."""
    for rate, seeds in ((HIGHEST, range(100, 110)), (MIDDLE, range(100, 130))):
        yield from (Job(SMALL, rate, 0.0, seed, iterations=48, is_protected=True) for seed in seeds)


def quickstart(seeds: range = range(400, 410)) -> Iterator[Job]:
    """Study 3 on the quickstart's agent."""
    for rate in (2e-3, 1e-3, 2e-4):
        for seed in seeds:
            yield from (Job(QUICKSTART, rate, value, seed, iterations=20) for value in (0.0, 0.2))
    for seed in seeds:
        yield from (Job(QUICKSTART, 2e-3, value, seed, iterations=20) for value in (1.0, 0.1, 0.01))


STUDIES = {
    "full": full,
    "more": more,
    "longer": longer,
    "wide": wide,
    "sampled": sampled,
    "unsampled": unsampled,
    "further": further,
    "positive": positive,
    "erosion": erosion,
    "quickstart": quickstart,
    "protect": protect,
}
TABLES = {"positive": "full", "more": "full"}
"""Studies whose records are in the table of another."""


@contextmanager
def claimed(name: str) -> Iterator[bool]:
    """Whether no other process works at it; the claim ends with the process."""
    path = RUNS / "claims" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def run(job: Job, fixed: FixedSet) -> list[Row]:
    """Train once; the signals of each iteration."""
    record, folder = Record(), RUNS / "work" / job.name
    train(job.task, job.settings, [fixed, *(protection() if job.is_protected else []), record], folder)
    shutil.rmtree(folder, ignore_errors=True)
    return record.rows


def protection(name: str = "protect") -> list[pl.Callback]:
    """The monitor as a file of `conf/collapse/` configures it, and checkpoints to go back to."""
    parser = ArgumentParser()
    parser.add_class_arguments(CollapseMonitor, "collapse")
    config = parser.parse_path(Path(f"conf/collapse/{name}.yaml"))
    return [parser.instantiate_classes(config).collapse, IterationCheckpoint(every_n_iterations=1, keep_last=1)]


def describe(rows: list[Row]) -> str:
    """A line for the impatient."""
    rewards = [row["reward/mean"] for row in rows]
    best = max(sum(rewards[at : at + 5]) / 5 for at in range(len(rewards) - 4))
    fixed = [row["policy/fixed_log_likelihood"] for row in rows]
    return (
        f"reward: best 5 {best:.2f}, last 10 {sum(rewards[-10:]) / 10:.2f}; fixed set {fixed[0]:.2f} -> {fixed[-1]:.2f}"
    )


def main() -> None:
    """Do what is left of the studies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", choices=list(STUDIES))
    parser.add_argument("--iterations", type=int, help="another length")
    parser.add_argument("--seeds", type=int, nargs="+", help="only the trainings of these seeds")
    parser.add_argument("--output", type=Path, default=RECORDS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.studies:
        study = Study(arguments.output / TABLES.get(name, name))
        for job in STUDIES[name]():
            if arguments.seeds and job.seed not in arguments.seeds:
                continue
            with claimed(f"{name}-{job.name}") as is_mine:
                if not is_mine or study.has(job.name):
                    continue
                job = replace(job, iterations=arguments.iterations or job.iterations)
                started = time.process_time()
                rows = run(job, FixedSet(correct_trajectories(job.task)))
                study.add(job.name, rows)
                print(f"{name}/{job.name}: {describe(rows)}; {time.process_time() - started:.0f} CPU s", flush=True)
        study.pack()


if __name__ == "__main__":
    main()

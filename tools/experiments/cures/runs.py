"""The runs of the bench as they are recorded, and which of them there are to make."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mean

from llds.monitor.hindsight import outcome
from tools.experiments.cures.entries import PAIR, Entry, entry_of
from tools.experiments.recording import RECORDS
from tools.study import Cells, Study

STUDY = Study(RECORDS / "cures")
CHOICE_SEEDS = range(700, 702)
"""Seeds on which each cure chooses the value of its knob, apart from those of the table."""
TEST_SEEDS = range(100, 120)
"""Of the table; a cure runs on the first `USUAL_SEEDS` of them, and on all where these cannot tell."""
USUAL_SEEDS = 10
RATES = (1e-3, 1.5e-3, 5e-4)
"""Learning rates of the small task, those of study 3; the first is that of the choice."""
PAIRS = 3
BLOCK = 5
"""Seeds that each cure gets before any has more, so that an interrupted bench compares whole cures."""
EDGE = 10
"""Iterations at the beginning, and at the end, whose mean reward is a run's."""
SIGNALS = (
    "reward/mean", "llds/lld_rate", "llds/lld_magnitude", "policy/fixed_log_likelihood", "policy/entropy",
    "train/grad_norm",
)  # fmt: skip
"""What is kept of each iteration, beside the processor seconds of the run."""
SECONDS = "cpu_s"


@dataclass(frozen=True)
class Job:
    """A training of the bench.

    Attributes:
        entry: Name of the cure.
        value: Of its knob.
        rate: Learning rate, before what the cure makes of it.
        seed: Of the run.
    """

    entry: str
    value: float
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """Of its record."""
        return f"{self.entry}={self.value:g} lr={self.rate:g} seed={self.seed}"

    @classmethod
    def named(cls, name: str) -> "Job":
        """The job of a record."""
        entry, rate, seed = name.split(" ")
        cure, value = entry.split("=")
        return cls(cure, float(value), float(rate.removeprefix("lr=")), int(seed.removeprefix("seed=")))


@dataclass(frozen=True)
class Run:
    """A recorded training.

    Attributes:
        job: What it was.
        rows: One per iteration.
    """

    job: Job
    rows: list[Cells]

    def curve(self, signal: str) -> list[float]:
        """A signal's values, where it is defined."""
        return [float(row[signal]) for row in self.rows if signal in row]

    @cached_property
    def rewards(self) -> list[float]:
        """Of the sampled trajectories, by iteration."""
        return self.curve("reward/mean")

    @property
    def collapsed(self) -> bool:
        """The verdict of `llds.monitor.hindsight`."""
        return outcome(self.rewards).kind == "collapsed"

    @property
    def last(self) -> float:
        """Mean reward of the last iterations."""
        return mean(self.rewards[-EDGE:])

    @property
    def first(self) -> float:
        """Mean reward of the first iterations: what a cure costs."""
        return mean(self.rewards[:EDGE])


def recorded() -> list[Run]:
    """All runs that there are."""
    if not STUDY.table.exists() and not STUDY.folder.exists():
        return []
    return [Run(Job.named(name), rows) for name, rows in STUDY.read().items()]


def chosen(entry: Entry, runs: Sequence[Run]) -> float | None:
    """The value of a cure's knob: fewest collapses on the seeds of the choice, then the highest last reward.

    Args:
        entry: The cure.
        runs: All that are recorded.

    Returns:
        None where the choice is not made yet.
    """
    if len(entry.values) == 1:
        return entry.values[0]
    by_value: dict[float, list[Run]] = {}
    for run in runs:
        if run.job.entry == entry.name and run.job.seed in CHOICE_SEEDS:
            by_value.setdefault(run.job.value, []).append(run)
    if any(len(by_value.get(value, [])) < len(CHOICE_SEEDS) for value in entry.values):
        return None
    return min(entry.values, key=lambda value: (sum(one.collapsed for one in by_value[value]),
                                                -mean(one.last for one in by_value[value])))  # fmt: skip


def value_of(entry: Entry, runs: Sequence[Run]) -> float:
    """The value of a cure's knob in the table: what it chose, the usual one where the choice is not made."""
    value = chosen(entry, runs)
    return entry.values[0] if value is None else value


def table_runs(name: str, runs: Sequence[Run], rate: float | None = None) -> list[Run]:
    """The runs of a cure in the table, at the value of its knob there, by seed.

    Args:
        name: Of the cure.
        runs: All that are recorded.
        rate: None is all.
    """
    value = value_of(entry_of(name), runs)
    found = [one for one in runs if one.job.entry == name and one.job.value == value and one.job.seed in TEST_SEEDS]
    return sorted((one for one in found if rate in (None, one.job.rate)), key=lambda one: (one.job.rate, one.job.seed))


def left(
    names: Sequence[str], seeds: Sequence[int], rates: Sequence[float], runs: Sequence[Run], usual: bool = False
) -> Iterator[Job]:
    """What these cures still have to run: first the choice of the knob, then what the table holds, block by block.

    Args:
        names: Of the cures, in the order in which they run.
        seeds: Of the table.
        rates: Of the table.
        runs: All that are recorded.
        usual: Whether no choice is made: each knob has its usual value.
    """
    known = {run.job for run in runs}
    entries = [entry_of(name) for name in names]
    ready = [entry for entry in entries if usual or chosen(entry, runs) is not None]
    jobs = [
        Job(entry.name, value, RATES[0], seed)
        for entry in entries
        if entry not in ready
        for seed in CHOICE_SEEDS
        for value in entry.values
    ]
    for at in range(0, len(seeds), BLOCK):
        block = seeds[at : at + BLOCK]
        jobs += [
            Job(entry.name, value_of(entry, runs), rate, seed) for entry in ready for rate in rates for seed in block
        ]
    yield from (job for job in jobs if job not in known)


def best(names: Sequence[str], runs: Sequence[Run], count: int = PAIRS) -> list[str]:
    """The cures with the highest last reward over all of their runs in the table, whose pairs with LLDS come next."""
    alone = [name for name in names if not name.startswith("llds") and name != "grpo" and table_runs(name, runs)]
    by_reward = sorted(alone, key=lambda name: -mean(one.last for one in table_runs(name, runs)))
    return [name + PAIR for name in by_reward[:count]]

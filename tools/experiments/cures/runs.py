"""The runs of the bench as they are recorded, and which of them there are to make."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from statistics import mean

from llds.monitor.hindsight import outcome
from tools.experiments.cures.entries import PAIR, Entry, entry_of
from tools.experiments.cures.regimes import REGIMES
from tools.experiments.recording import RECORDS
from tools.experiments.records_table import NAME
from tools.study import Cells, Study

STUDY = Study(RECORDS / "cures")
CHOICE_SEEDS = range(700, 702)
"""Seeds on which each cure chooses the value of its knob, apart from those of the table."""
USUAL_SEEDS = 10
"""A cure runs on so many of a regime's seeds, and on all where these cannot tell."""
USUAL = "small"
"""The regime of the choice."""
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
        regime: A name of `REGIMES`.
    """

    entry: str
    value: float
    rate: float
    seed: int
    regime: str = USUAL

    @property
    def name(self) -> str:
        """Of its record."""
        name = f"{self.entry}={self.value:g} lr={self.rate:g} seed={self.seed}"
        return name if self.regime == USUAL else f"{name} on={self.regime}"

    @classmethod
    def named(cls, name: str) -> "Job":
        """The job of a record."""
        entry, rate, seed, *regime = [part.split("=") for part in name.split(" ")]
        return cls(entry[0], float(entry[1]), float(rate[1]), int(seed[1]), *[name for _, name in regime])


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
    """All runs that there are, those of the other studies included."""
    known = STUDY.table.exists() or STUDY.folder.exists()
    own = [Run(Job.named(name), rows) for name, rows in STUDY.read().items()] if known else []
    return own + [run for regime in REGIMES for run in _borrowed(regime)]


@cache
def _borrowed(regime: str) -> tuple[Run, ...]:
    """The runs of another study that are the same trainings as entries here."""
    study = Study(RECORDS / REGIMES[regime].study)
    if not REGIMES[regime].study or not study.table.exists():
        return ()
    runs = ((NAME.fullmatch(name), rows) for name, rows in study.read().items())
    found = ((match and _borrowed_job(match.groupdict(), regime), rows) for match, rows in runs)
    return tuple(Run(job, rows) for job, rows in found if job)


def _borrowed_job(name: dict[str, str], regime: str) -> Job | None:
    """Which job a run of another study is, by the parts of its name; None for none."""
    rate, lambda_, variant = float(name["rate"]), float(name["coefficient"]), name["variant"].strip("-")
    entry = {(0.0, ""): "grpo", (0.2, ""): "llds_0.2", (1.0, ""): "llds_1", (1.0, "frozen"): "llds_frozen"}
    rates = REGIMES[regime].rates
    if rate in rates and (lambda_, variant) in entry:
        return Job(entry[lambda_, variant], lambda_, rate, int(name["seed"]), regime)
    if 2 * rate in rates and (lambda_, variant) == (0.0, ""):
        return Job("half_rate", 0.5, 2 * rate, int(name["seed"]), regime)
    return None


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


def table_runs(name: str, runs: Sequence[Run], rate: float | None = None, regime: str = USUAL) -> list[Run]:
    """The runs of a cure in the table, at the value of its knob there, by seed.

    Args:
        name: Of the cure.
        runs: All that are recorded.
        rate: None is all.
        regime: Where.
    """
    place = (name, value_of(entry_of(name), runs), regime)
    found = [one for one in runs if (one.job.entry, one.job.value, one.job.regime) == place]
    found = [one for one in found if one.job.seed in REGIMES[regime].seeds]
    return sorted((one for one in found if rate in (None, one.job.rate)), key=lambda one: (one.job.rate, one.job.seed))


def left(
    names: Sequence[str],
    seeds: Sequence[int],
    rates: Sequence[float],
    runs: Sequence[Run],
    usual: bool = False,
    regime: str = USUAL,
) -> Iterator[Job]:
    """What these cures still have to run: first the choice of the knob, then what the table holds, block by block.

    Args:
        names: Of the cures, in the order in which they run.
        seeds: Of the table.
        rates: Of the table.
        runs: All that are recorded.
        usual: Whether no choice is made: each knob has its usual value.
        regime: Of the table.
    """
    known = {run.job for run in runs}
    entries = [entry for entry in map(entry_of, names) if fits(entry, regime)]
    ready = [entry for entry in entries if usual or chosen(entry, runs) is not None]
    jobs = [
        Job(entry.name, value, REGIMES[USUAL].rates[0], seed)
        for entry in entries
        if entry not in ready
        for seed in CHOICE_SEEDS
        for value in entry.values
    ]
    for at in range(0, len(seeds), BLOCK):
        block = seeds[at : at + BLOCK]
        jobs += [
            Job(entry.name, value_of(entry, runs), rate, seed, regime)
            for entry in ready
            for rate in rates
            for seed in block
        ]
    yield from (job for job in jobs if job not in known)


def fits(entry: Entry, regime: str) -> bool:
    """Whether a cure can be tried there: one that has a reward of its own cannot, where the reward is a coin."""
    return not REGIMES[regime].has_random_reward or entry.make(entry.values[0]).reward is None


def best(names: Sequence[str], runs: Sequence[Run], count: int = PAIRS) -> list[str]:
    """The cures with the highest last reward over all of their runs in the table, whose pairs with LLDS come next."""
    alone = [name for name in names if not name.startswith("llds") and name != "grpo" and table_runs(name, runs)]
    by_reward = sorted(alone, key=lambda name: -mean(one.last for one in table_runs(name, runs)))
    return [name + PAIR for name in by_reward[:count]]

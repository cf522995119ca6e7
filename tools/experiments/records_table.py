"""The records of the studies as numbers: which runs there are, and what became of each."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from llds.monitor.hindsight import WINDOW, Outcome, outcome
from tools.experiments.recording import RECORDS
from tools.study import Cells, Study

NAME = re.compile(
    r"(?P<task>[a-z]+)-lr(?P<rate>[\d.e-]+?)-lambda(?P<coefficient>[\d.]+)(?P<variant>(?:-[a-z_]+[\d.]*)*?)-seed(?P<seed>\d+)"
)
LAST = 10
FIXED = "policy/fixed_log_likelihood"
REWARD = "reward/mean"


@dataclass(frozen=True)
class Run:
    """A recorded training.

    Attributes:
        task: Its name.
        rate: Learning rate.
        coefficient: Lambda.
        variant: What else differs from the default, such as "frozen"; empty for nothing.
        seed: Of the run.
        curves: Signal by name, one value per iteration; None where it is undefined.
    """

    task: str
    rate: float
    coefficient: float
    variant: str
    seed: int
    curves: dict[str, list[float | None]]

    @property
    def rewards(self) -> list[float]:
        """Of the sampled trajectories, per iteration."""
        return defined(self.curves[REWARD])

    @property
    def outcome(self) -> Outcome:
        """The verdict of `llds.monitor.hindsight`, which was fixed before these runs."""
        return outcome(self.rewards)

    @property
    def peak(self) -> float:
        """Of the smoothed reward."""
        return max(smooth(self.rewards))

    @property
    def last(self) -> float:
        """Mean reward of the last iterations."""
        return sum(self.rewards[-LAST:]) / LAST

    @property
    def halved(self) -> bool:
        """Whether the smoothed reward fell to less than half of its peak so far."""
        smoothed = smooth(self.rewards)
        return any(value < 0.5 * max(smoothed[: at + 1]) for at, value in enumerate(smoothed))

    @property
    def fixed_set(self) -> list[float]:
        """Likelihood of the fixed correct trajectories after each iteration, in nats per token."""
        return defined(self.curves[FIXED])


def read_runs(study: str, **wanted: object) -> list[Run]:
    """The runs of a study, those with the wanted attributes, by seed."""
    chosen = [run for run in _read_all(study) if all(vars(run)[name] == value for name, value in wanted.items())]
    return sorted(chosen, key=lambda run: (run.task, run.rate, run.coefficient, run.variant, run.seed))


@cache
def _read_all(study: str) -> tuple[Run, ...]:
    return tuple(_run(name, rows) for name, rows in Study(RECORDS / study).read().items())


def _run(name: str, rows: list[Cells]) -> Run:
    match = NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"Expected a record named like small-lr0.001-lambda0.2-seed1, got {name}.")
    signals = dict.fromkeys(signal for row in rows for signal in row)
    curves = {signal: [float(row[signal]) if signal in row else None for row in rows] for signal in signals}
    return Run(
        match["task"],
        float(match["rate"]),
        float(match["coefficient"]),
        match["variant"].strip("-"),
        int(match["seed"]),
        curves,
    )


def smooth(values: Sequence[float]) -> list[float]:
    """Centered means, as `llds.monitor.hindsight` takes them."""
    half = WINDOW // 2
    windows = [values[max(0, at - half) : at + half + 1] for at in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def defined(values: Sequence[float | None]) -> list[float]:
    """Those that are."""
    return [value for value in values if value is not None]

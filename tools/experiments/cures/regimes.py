"""Where the cures are compared: a task, its learning rates, its length and its seeds."""

from dataclasses import dataclass

from tools.experiments.tasks import QUICKSTART, SMALL, WIDE, Task


@dataclass(frozen=True)
class Regime:
    """A task on which plain GRPO goes wrong.

    Attributes:
        task: What is trained.
        rates: Learning rates, the one that is run first in front.
        seeds: Of the runs in the table.
        iterations: Length of a run.
        has_random_reward: Whether the reward is a coin.
        study: Of `full_runs` that has the same training without a cure, with LLDS, and at half the rate: those runs
            count here too.
    """

    task: Task
    rates: tuple[float, ...]
    seeds: range
    iterations: int
    has_random_reward: bool = False
    study: str = ""


REGIMES = {
    "small": Regime(SMALL, (1e-3, 1.5e-3, 5e-4), range(100, 120), 32),
    "quickstart": Regime(QUICKSTART, (2e-3,), range(400, 410), 20, study="quickstart"),
    "wide": Regime(WIDE, (1e-3,), range(500, 510), 96, study="wide"),
    "erosion": Regime(SMALL, (1e-3,), range(300, 304), 40, has_random_reward=True, study="erosion"),
}
"""By name. Knobs are chosen in the first one, at its first rate."""

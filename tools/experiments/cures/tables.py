"""The tables of docs/cures.md, from the records of the bench."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import mean

import numpy as np

from llds.evaluation.intervals import mean_estimate
from tools.experiments.cures.entries import ENTRIES, PAIR, entry_of
from tools.experiments.cures.runs import (
    BLOCK,
    EDGE,
    RATES,
    SECONDS,
    TEST_SEEDS,
    Run,
    chosen,
    recorded,
    table_runs,
    value_of,
)
from tools.experiments.inference import paired_difference
from tools.experiments.records_table import smooth
from tools.experiments.tables import markdown

_RESAMPLES = 2000
DOCS = Path(__file__).parents[3] / "docs"
NOTHING = "No runs yet: `python -m tools.experiments.cures`.\n"


def names_of(runs: Sequence[Run], rate: float | None = None, least: int = BLOCK) -> list[str]:
    """The cures that have at least so many runs in the table, in the order of the entries, pairs last."""
    known = {run.job.entry for run in runs}
    names = [entry.name for entry in ENTRIES] + sorted(name for name in known if name.endswith(PAIR))
    return [name for name in names if name in known and len(table_runs(name, runs, rate)) >= least]


def rate_table(rate: float, least: int = BLOCK) -> str:
    """What became of each cure at one learning rate.

    Args:
        rate: The learning rate.
        least: Runs that a cure needs to be shown.
    """
    runs = recorded()
    names = names_of(runs, rate, least)
    shared = shared_runs(names, runs, rate)
    found = {name: [shared[place][name] for place in sorted(shared)] for name in names}
    plain = {run.job.seed: run for run in found.get("grpo", [])}
    rows = [_row(name, of_cure, plain, runs) for name, of_cure in found.items() if of_cure]
    head = ["cure", "knob", "collapsed", "95% interval", f"reward, last {EDGE}", "to plain GRPO", "p", "peak",
            f"first {EDGE}", "LLD rate", "LLD magnitude", "fixed set", "entropy", "CPU s"]  # fmt: skip
    note = (
        f"The {len(shared)} seeds that all of these {len(names)} cures have: {_span(seed for _, seed in shared)}.\n\n"
    )
    return note + markdown(head, rows) if rows else NOTHING


def ranking_table() -> str:
    """Cures by their last reward over all rates and seeds, with what chance leaves of the order."""
    runs = recorded()
    names = names_of(runs, RATES[0])
    shared = shared_runs(names, runs)
    if len(names) < 2 or not shared:
        return NOTHING
    rewards = np.array([[shared[place][name].last for place in sorted(shared)] for name in names])  # [cure, run]
    draws = np.random.default_rng(0).integers(rewards.shape[1], size=(_RESAMPLES, rewards.shape[1]))
    ranks = np.array([(-rewards[:, draw].mean(1)).argsort().argsort() + 1 for draw in draws])  # [draw, cure]
    low, high = np.percentile(ranks, [2.5, 97.5], axis=0)
    order = np.argsort(-rewards.mean(1))
    rows = [
        [
            names[at],
            f"{mean(rewards[at].tolist()):.3f}",
            f"{low[at]:.0f} to {high[at]:.0f}",
            f"{sum(run[names[at]].collapsed for run in shared.values())} of {len(shared)}",
        ]
        for at in order
    ]
    rates = ", ".join(f"{rate:g}" for rate in sorted({rate for rate, _ in shared}))
    note = f"Over the {len(shared)} pairs of rate ({rates}) and seed that all of these {len(names)} cures have.\n\n"
    return note + markdown(["cure", f"reward, last {EDGE}", "rank, 95%", "collapsed"], rows)


def choice_table() -> str:
    """The values that the cures tried, and what each chose."""
    runs = recorded()
    rows = []
    for entry in ENTRIES:
        value = chosen(entry, runs)
        tried = ", ".join(f"{one:g}" for one in entry.values)
        of_choice = "open: the first" if value is None else f"{value:g}"
        rows.append([entry.name, tried if len(entry.values) > 1 else "", of_choice])
    return markdown(["cure", "tried", "chosen"], [row for row in rows if row[1]])


def _row(name: str, found: Sequence[Run], plain: dict[int, Run], runs: Sequence[Run]) -> list[str]:
    collapsed = sum(run.collapsed for run in found)
    share = mean_estimate([float(run.collapsed) for run in found])
    both = [run for run in found if run.job.seed in plain]
    value = value_of(entry_of(name), runs)
    to_plain, p = "", ""
    if name != "grpo" and both:
        difference = paired_difference([plain[run.job.seed].last for run in both], [run.last for run in both])
        to_plain = f"{difference.mean:+.3f} ({difference.up} up, {difference.down} down)"
        p = f"{difference.p:.2g}"
    return [
        name,
        f"{value:g}" if len(entry_of(name).values) > 1 else "",
        f"{collapsed} of {len(found)}",
        f"{share.low:.2f} to {share.high:.2f}",
        f"{mean(run.last for run in found):.3f}",
        to_plain,
        p,
        f"{mean(max(smooth(run.rewards)) for run in found):.3f}",
        f"{mean(run.first for run in found):.3f}",
        _mean_of(found, "llds/lld_rate"),
        _mean_of(found, "llds/lld_magnitude"),
        f"{mean(run.curve('policy/fixed_log_likelihood')[-1] for run in found):.2f}",
        f"{mean(run.curve('policy/entropy')[-1] for run in found):.2f}",
        f"{mean(run.curve(SECONDS)[0] for run in found):.0f}",
    ]


def _mean_of(found: Sequence[Run], signal: str) -> str:
    values = [value for run in found for value in run.curve(signal)]
    return f"{mean(values):.3f}" if values else "-"


def _span(seeds: Iterable[int]) -> str:
    return ", ".join(str(seed) for seed in sorted(seeds))


def shared_runs(
    names: Sequence[str], runs: Sequence[Run], rate: float | None = None
) -> dict[tuple[float, int], dict[str, Run]]:
    """Runs by rate and seed, then by cure: of those places where every cure has one.

    Args:
        names: Of the cures.
        runs: All that are recorded.
        rate: None is all.
    """
    places: dict[tuple[float, int], dict[str, Run]] = {}
    for name in names:
        for run in table_runs(name, runs, rate):
            places.setdefault((run.job.rate, run.job.seed), {})[name] = run
    return {place: by_name for place, by_name in places.items() if len(by_name) == len(names)}


def picture() -> str:
    """The picture, where it is drawn."""
    told = "Reward of the last iterations by cure, best first, and how many runs collapsed"
    return f"![{told}](experiments/cures.png)\n" if (DOCS / "experiments" / "cures.png").exists() else ""


TABLES: dict[str, Callable[[], str]] = {
    "cures-picture": picture,
    "cures-ranking": ranking_table,
    "cures-choice": choice_table,
    "cures-middle": lambda: rate_table(RATES[0]),
    "cures-highest": lambda: rate_table(RATES[1]),
    "cures-aim": lambda: rate_table(RATES[1], len(TEST_SEEDS)),
    "cures-lowest": lambda: rate_table(RATES[2]),
}

"""The tables of docs/cures.md, from the records of the bench."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import mean

import numpy as np

from llds.evaluation.intervals import mean_estimate
from tools.experiments.cures.entries import ENTRIES, PAIR, entry_of
from tools.experiments.cures.regimes import REGIMES
from tools.experiments.cures.runs import (
    BLOCK,
    EDGE,
    SECONDS,
    USUAL,
    Run,
    chosen,
    recorded,
    table_runs,
    value_of,
)
from tools.experiments.inference import paired_difference
from tools.experiments.records_table import FIXED, smooth
from tools.experiments.tables import markdown

_RESAMPLES = 2000
DOCS = Path(__file__).parents[3] / "docs"
NOTHING = "No runs yet: `python -m tools.experiments.cures`.\n"
MIDDLE, HIGHEST, LOWEST = REGIMES[USUAL].rates


def names_of(runs: Sequence[Run], rate: float | None = None, least: int = BLOCK, regime: str = USUAL) -> list[str]:
    """The cures that have at least so many runs in the table, in the order of the entries, pairs last."""
    known = {run.job.entry for run in runs}
    names = [entry.name for entry in ENTRIES] + sorted(name for name in known if name.endswith(PAIR))
    return [name for name in names if name in known and len(table_runs(name, runs, rate, regime)) >= least]


def rate_table(rate: float, least: int = BLOCK, regime: str = USUAL) -> str:
    """What became of each cure at one learning rate.

    Args:
        rate: The learning rate.
        least: Runs that a cure needs to be shown.
        regime: Where.
    """
    runs = recorded()
    names = names_of(runs, rate, least, regime)
    shared = shared_runs(names, runs, rate, regime)
    found = {name: [shared[place][name] for place in sorted(shared)] for name in names}
    plain = {run.job.seed: run for run in found.get("grpo", [])}
    rows = [_row(name, of_cure, plain, runs) for name, of_cure in found.items() if of_cure]
    head = ["cure", "knob", "collapsed", "95% interval", f"reward, last {EDGE}", "to plain GRPO", "p", "peak",
            f"first {EDGE}", "LLD rate", "LLD magnitude", "fixed set", "entropy"]  # fmt: skip
    note = (
        f"The {len(shared)} seeds that all of these {len(names)} cures have: {_span(seed for _, seed in shared)}.\n\n"
    )
    return note + markdown(head, rows) if rows else NOTHING


def ranking_table() -> str:
    """Cures by their last reward over all rates and seeds, with what chance leaves of the order."""
    runs = recorded()
    names = names_of(runs, MIDDLE)
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


def erosion_table() -> str:
    """What random rewards did to the likelihood of right trajectories under each cure."""
    runs = recorded()
    regime = REGIMES["erosion"]
    least = len(regime.seeds)
    names = names_of(runs, regime.rates[0], least, "erosion")
    ends = {name: [run.curve(FIXED)[-1] for run in table_runs(name, runs, regime="erosion")] for name in names}
    rows = []
    for name, lost in ends.items():
        difference = paired_difference(ends["grpo"], lost)
        change = "" if name == "grpo" else f"{difference.mean:+.2f} ({difference.up} up, {difference.down} down)"
        rows.append((mean(lost), [name, f"{mean(lost):.2f}", f"{min(lost):.2f} to {max(lost):.2f}", change]))
    if len(names) < 2:
        return NOTHING
    ordered = [row for _, row in sorted(rows, key=lambda row: -row[0])]
    return markdown(["cure", "fixed set, at the end", f"of {least} runs", "to plain GRPO"], ordered)


def cost_table() -> str:
    """Processor time of each cure, as a multiple of plain GRPO's, at the rate at which plain GRPO holds."""
    runs = recorded()
    names = names_of(runs, LOWEST)
    shared = shared_runs(names, runs, LOWEST)
    spent = {name: mean(by_name[name].curve(SECONDS)[0] for by_name in shared.values()) for name in names if shared}
    if "grpo" not in spent:
        return NOTHING
    ordered = sorted(spent, key=lambda name: spent[name])
    note = f"Plain GRPO: {spent['grpo']:.1f} CPU seconds a run of {REGIMES[USUAL].iterations} iterations.\n\n"
    return note + markdown(
        ["cure", "to plain GRPO"], [[name, f"{spent[name] / spent['grpo']:.2f}"] for name in ordered]
    )


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
        f"{mean(run.curve(FIXED)[-1] for run in found):.2f}",
        f"{mean(run.curve('policy/entropy')[-1] for run in found):.2f}",
    ]


def _mean_of(found: Sequence[Run], signal: str) -> str:
    values = [value for run in found for value in run.curve(signal)]
    return f"{mean(values):.3f}" if values else "-"


def _span(seeds: Iterable[int]) -> str:
    return ", ".join(str(seed) for seed in sorted(seeds))


def shared_runs(
    names: Sequence[str], runs: Sequence[Run], rate: float | None = None, regime: str = USUAL
) -> dict[tuple[float, int], dict[str, Run]]:
    """Runs by rate and seed, then by cure: of those places where every cure has one.

    Args:
        names: Of the cures.
        runs: All that are recorded.
        rate: None is all.
        regime: Where.
    """
    places: dict[tuple[float, int], dict[str, Run]] = {}
    for name in names:
        for run in table_runs(name, runs, rate, regime):
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
    "cures-middle": lambda: rate_table(MIDDLE),
    "cures-highest": lambda: rate_table(HIGHEST),
    "cures-aim": lambda: rate_table(HIGHEST, len(REGIMES[USUAL].seeds)),
    "cures-lowest": lambda: rate_table(LOWEST),
    "cures-cost": cost_table,
    "cures-quickstart": lambda: rate_table(REGIMES["quickstart"].rates[0], regime="quickstart"),
    "cures-wide": lambda: rate_table(REGIMES["wide"].rates[0], regime="wide"),
    "cures-erosion": erosion_table,
}

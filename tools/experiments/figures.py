"""The figures of docs/experiments.md, from the records; needs matplotlib (`pip install -e ".[experiments]"`)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llds.monitor.detector import diagnose
from tools.experiments.cures.runs import Run as CureRun
from tools.experiments.cures.runs import recorded
from tools.experiments.cures.tables import MIDDLE, names_of, shared_runs
from tools.experiments.inference import standard_error
from tools.experiments.records_table import FIXED, REWARD, Run, read_runs, smooth
from tools.experiments.tables import ANCHORS, paired_rows, probe_changes
from tools.smollm2.record import STUDY as SMOLLM2

COLORS = {0.0: "#444444", 0.01: "#8da0cb", 0.1: "#66c2a5", 0.2: "#1b9e77", 1.0: "#d95f02", 5.0: "#7570b3"}
STYLES: dict[str, Any] = {"": "-", "lagged": ":", "frozen": "--", "positive": "--"}
SIGNALS = {
    "reward": REWARD,
    "log-likelihood per token: fixed correct set": FIXED,
    "entropy": "policy/entropy",
    "gradient norm": "train/grad_norm",
}
LEARNED = {
    "rollout/tool_calls": "searches per question",
    "policy/log_likelihood_correct": "log-likelihood per token, right ones",
    REWARD: "reward (F1) of four questions",
}
mpl.rcParams |= {
    "font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 8,
    "legend.frameon": False, "svg.hashsalt": "llds", "svg.fonttype": "none",
}  # fmt: skip


def draw_band(axes: Axes, runs: Sequence[Run], name: str, color: str, label: str) -> None:
    """Mean over runs with its standard error; of the runs in which the signal is defined at an iteration."""
    length = min(len(run.curves[name]) for run in runs)
    values = [[value for run in runs if (value := run.curves[name][at]) is not None] for at in range(length)]
    at = [number + 1 for number, found in enumerate(values) if found]
    middle = smooth([mean(found) for found in values if found]) if name == REWARD else [mean(v) for v in values if v]
    error = [standard_error(found) if len(found) > 1 else 0.0 for found in values if found]
    axes.plot(at, middle, color=color, label=label, linewidth=1.3)
    low, high = ([m + sign * e for m, e in zip(middle, error, strict=True)] for sign in (-1, 1))
    axes.fill_between(at, low, high, color=color, alpha=0.18, linewidth=0)


def spiral(study: str) -> Figure | None:
    """After the paper's figure 2: reward, likelihood, entropy, gradient norm of plain GRPO, each run and their mean."""
    runs = [run for run in read_runs(study, coefficient=0.0) if run.outcome.kind == "collapsed"]
    if not runs:
        return None
    figure, grid = plt.subplots(1, 4, figsize=(11, 2.4), constrained_layout=True)
    for axes, (title, name) in zip(grid, SIGNALS.items(), strict=True):
        for run in runs:
            curve = smooth(run.rewards) if name == REWARD else run.curves[name]
            axes.plot(range(1, len(curve) + 1), curve, color="#999999", linewidth=0.5, alpha=0.6)
        draw_band(axes, runs, name, "#b2182b", "mean")
        axes.set_title(title)
        axes.set_xlabel("iteration")
    grid[3].set_yscale("log")
    return figure


def collapse(seed: int = 509) -> Figure | None:
    """A seed of *wide* with and without LLDS: reward, and likelihood of the fixed set under the detector's phases."""
    runs = [run for run in read_runs("wide", rate=1e-3, variant="", seed=seed) if run.coefficient in (0.0, 0.2)]
    if len(runs) != 2:
        return None
    plain = runs[0]
    said = diagnose((number + 1, row) for number, row in enumerate(_rows(plain)))
    alarm = next(one.iteration for one in said if one.level == "alarm")
    figure, panels = plt.subplots(2, 1, figsize=(7, 4.2), sharex=True, constrained_layout=True)
    for axes, title, curves in (
        (panels[0], "reward", [smooth(run.rewards) for run in runs]),
        (panels[1], "log-likelihood per token of right answers", [run.fixed_set for run in runs]),
    ):
        for curve, color, label in zip(curves, ("#b2182b", "#1b9e77"), ("GRPO", "GRPO + LLDS"), strict=True):
            axes.plot(range(1, len(curve) + 1), curve, color=color, label=label, linewidth=1.6)
        for number, one in enumerate(said):
            if one.phase in _SHADES:
                axes.axvspan(number + 0.5, number + 1.5, color=_SHADES[one.phase], linewidth=0)
        axes.axvline(alarm, color="black", linewidth=1, linestyle="--")
        axes.set_title(title, loc="left")
    note: dict[str, Any] = {"textcoords": "offset points", "va": "bottom"}
    panels[0].annotate(f"alarm, iteration {alarm}", (alarm, 0.02), xytext=(-4, 0), ha="right", **note)
    for phase in _SHADES:
        first = next((number for number, one in enumerate(said) if one.phase == phase), None)
        if first is not None:
            panels[0].annotate(phase, (first + 1, 0.56), xytext=(3, 0), **note)
    panels[0].set_ylim(0, 0.62)
    panels[0].legend(loc="lower left")
    panels[1].set_xlabel("iteration; shaded: the phases of the run without LLDS, as the detector saw them then")
    return figure


_SHADES = {"stagnation": "#f7f3e3", "decay": "#f6e3cf", "acceleration": "#f3cdbd", "collapsed": "#e8b7b0"}


def _rows(run: Run) -> list[dict[str, float]]:
    names = run.curves.items()
    return [{name: v for name, curve in names if (v := curve[at]) is not None} for at in range(len(run.rewards))]


def probe() -> Figure | None:
    """After the paper's figure 3a: change of correct responses' likelihood by an update on one question, sorted."""
    changes = probe_changes("small")
    if not changes:
        return None
    figure, grid = plt.subplots(1, len(changes), figsize=(11, 2.2), sharey=True, constrained_layout=True)
    for axes, (iteration, values) in zip(grid, sorted(changes.items()), strict=True):
        values = sorted(values)
        axes.bar(range(len(values)), values, color=["#b2182b" if v < 0 else "#2166ac" for v in values], width=1.0)
        axes.axhline(0, color="black", linewidth=0.5)
        axes.set_yscale("symlog", linthresh=1e-3)
        axes.set_title(f"iteration {iteration}: {sum(v < 0 for v in values) / len(values):.0%} lose")
        axes.set_xlabel("questions")
    grid[0].set_ylabel("change, nats per token")
    return figure


def by_lambda(study: str, task: str, name: str, title: str) -> Figure | None:
    """After the paper's figures 7 and 8: a signal by lambda, a panel for each learning rate."""
    runs = [run for run in read_runs(study, task=task) if run.variant in ("", "positive")]
    rates = sorted({run.rate for run in runs})
    if not rates:
        return None
    figure, grid = plt.subplots(1, len(rates), figsize=(3.6 * len(rates), 3.2), sharey=True, constrained_layout=True)
    for axes, rate in zip([grid] if len(rates) == 1 else grid, rates, strict=True):
        for coefficient, variant in sorted({(run.coefficient, run.variant) for run in runs if run.rate == rate}):
            group = [run for run in runs if (run.rate, run.coefficient, run.variant) == (rate, coefficient, variant)]
            words = ", A > 0" if variant else ""
            draw_band(axes, group, name, COLORS[coefficient], f"λ {coefficient:g}{words} (n {len(group)})")
            axes.lines[-1].set_linestyle(STYLES[variant])
        axes.set_title(f"{title}, learning rate {rate:g}")
        axes.set_xlabel("iteration")
        axes.legend(fontsize=7, ncol=2, loc="upper center", bbox_to_anchor=(0.5, -0.22))
    return figure


def erosion() -> Figure | None:
    """Likelihood of the fixed set under random rewards."""
    runs = read_runs("erosion")
    if not runs:
        return None
    figure, axes = plt.subplots(figsize=(5, 2.8), constrained_layout=True)
    for coefficient, variant in sorted({(run.coefficient, run.variant) for run in runs}):
        group = [run for run in runs if (run.coefficient, run.variant) == (coefficient, variant)]
        anchor = f", anchor {ANCHORS[variant]}" if variant else ""
        draw_band(axes, group, FIXED, COLORS[coefficient], f"λ {coefficient:g}{anchor} (n {len(group)})")
        axes.lines[-1].set_linestyle(STYLES[variant])
    axes.set_xlabel("iteration")
    axes.set_ylabel("nats per token")
    axes.legend(fontsize=7)
    return figure


def paired() -> Figure | None:
    """Study 1: LLD rate and magnitude by variant, with the standard error of the paired difference to lambda 0."""
    panels = [(task, rows) for task in ("small", "quickstart") if (rows := paired_rows(task))]
    if not panels:
        return None
    figure, grid = plt.subplots(len(panels), 2, figsize=(8, 2.9 * len(panels)), squeeze=False, constrained_layout=True)
    for line, (task, variants) in zip(grid, panels, strict=True):
        for axes, (name, title) in zip(line, (("lld_rate", "LLD rate"), ("lld_magnitude", "magnitude")), strict=True):
            plain = variants["lambda 0"]
            names = list(variants)[::-1]
            for number, variant in enumerate(names):
                both = [place for place in plain if place in variants[variant]]
                values = [float(variants[variant][place][name]) for place in both]
                against = [v - float(plain[place][name]) for v, place in zip(values, both, strict=True)]
                axes.barh(number, mean(values), xerr=standard_error(against), color="#1b9e77", height=0.7, alpha=0.8)
            axes.set_yticks(range(len(names)), names if name == "lld_rate" else [""] * len(names))
            axes.set_title(f"{task}: {title} of correct responses")
    return figure


def cures() -> Figure | None:
    """Each cure's last reward at each learning rate, best in the mean first, and how many of its runs collapsed."""
    runs = recorded()
    names = names_of(runs, MIDDLE)
    shared = shared_runs(names, runs)
    if len(names) < 3 or not shared:
        return None
    names.sort(key=lambda name: mean(by_name[name].last for by_name in shared.values()))
    rates = sorted({rate for rate, _ in shared})
    size = (3.0 + 3.0 * len(rates), 0.7 + 0.19 * len(names))
    figure, grid = plt.subplots(1, len(rates), figsize=size, sharey=True, squeeze=False, constrained_layout=True)
    for axes, rate in zip(grid[0], rates, strict=True):
        _cures_at(axes, names, {name: [one[name] for at, one in shared.items() if at[0] == rate] for name in names})
        axes.set_title(f"learning rate {rate:g}")
    axes = grid[0][0]
    axes.set_yticks(range(len(names)), names, fontsize=6)
    for label in axes.get_yticklabels():
        label.set_fontweight("bold" if "llds" in label.get_text() or label.get_text() == "grpo" else "normal")
    axes.set_ylim(-0.7, len(names) - 0.3)
    figure.supxlabel("reward of the last iterations; right of it, and by color: runs that collapsed", fontsize=8)
    return figure


def _cures_at(axes: Axes, names: Sequence[str], found: Mapping[str, Sequence[CureRun]]) -> None:
    for row, name in enumerate(names):
        last, collapsed = [run.last for run in found[name]], sum(run.collapsed for run in found[name])
        shade = plt.get_cmap("RdYlBu_r")(collapsed / len(last))
        axes.errorbar(mean(last), row, xerr=standard_error(last), color="#777777", linewidth=0.7, zorder=1)
        axes.scatter(mean(last), row, s=26, color=[shade], edgecolors="black", linewidths=0.4, zorder=2)
        axes.annotate(
            f"{collapsed} of {len(last)}", (1.01, row), xycoords=("axes fraction", "data"), fontsize=6, va="center"
        )
    axes.grid(axis="x", linewidth=0.3)


def smollm2() -> Figure | None:
    """A pre-trained model learns to search: searches, likelihood of right trajectories, reward, by iteration."""
    if not SMOLLM2.table.exists():
        return None
    figure, grid = plt.subplots(1, len(LEARNED), figsize=(9, 2.4), constrained_layout=True)
    for axes, (name, title) in zip(grid, LEARNED.items(), strict=True):
        for number, (run, rows) in enumerate(SMOLLM2.read().items()):
            at, values = zip(*((int(row["iteration"]), float(row[name])) for row in rows if name in row), strict=True)
            color = plt.get_cmap("Dark2")(number)
            axes.plot(at, values, color=color, linewidth=0.5, alpha=0.4)
            axes.plot(at, smooth(list(values)), color=color, linewidth=1.5, label=run)
        axes.set_title(title)
        axes.set_xlabel("iteration")
    grid[0].legend(fontsize=7, loc="lower right")
    return figure


FIGURES = {
    "collapse": collapse,
    "paired": paired,
    "spiral": lambda: spiral("full"),
    "spiral-wide": lambda: spiral("wide"),
    "probe": probe,
    "erosion": erosion,
    "reward": lambda: by_lambda("full", "small", REWARD, "reward"),
    "likelihood": lambda: by_lambda("full", "small", FIXED, "fixed set"),
    "entropy": lambda: by_lambda("full", "small", "policy/entropy", "entropy"),
    "reward-wide": lambda: by_lambda("wide", "wide", REWARD, "reward"),
    "likelihood-wide": lambda: by_lambda("wide", "wide", FIXED, "fixed set"),
    "quickstart": lambda: by_lambda("quickstart", "quickstart", REWARD, "reward"),
    "cures": cures,
    "smollm2": smollm2,
}


def write_figures(folder: Path) -> None:
    """Draw all that there are records for."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in FIGURES.items():
        figure = draw()
        if figure is not None:
            figure.savefig(folder / f"{name}.png", dpi=110, metadata={"Software": None})
            plt.close(figure)

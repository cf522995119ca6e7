"""The tables of docs/experiments.md, from the records."""

from collections.abc import Callable, Sequence
from statistics import mean, median

from llds.monitor import CollapseDetector
from tools.experiments.inference import Difference, fisher_test, paired_difference, standard_error
from tools.experiments.recording import RECORDS
from tools.experiments.records_table import Run, defined, read_runs, smooth
from tools.study import Cells, Study

Cell = str | float
PLAIN = "lambda 0"


def markdown(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A table."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines)


def with_error(values: Sequence[float], digits: int = 3) -> str:
    """Mean and standard error."""
    error = f" ± {standard_error(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{error}" if values else "-"


def change(difference: Difference, digits: int = 3) -> str:
    """Mean difference, its standard error, and how many pairs went which way."""
    error = f" ± {difference.error:.{digits}f}" if difference.n > 1 else ""
    return f"{difference.mean:+.{digits}f}{error} ({difference.up} up, {difference.down} down)"


# Study 1

Place = tuple[str, str]


def rows_of(study: str, task: str) -> list[tuple[str, Cells]]:
    """The rows of a task's runs in a study, each with its run."""
    runs = Study(RECORDS / study).read()
    return [(run, row) for run, rows in runs.items() if run.startswith(f"{task}-") for row in rows]


def paired_rows(task: str) -> dict[str, dict[Place, Cells]]:
    """Rows of study 1 by variant and place (run, iteration)."""
    found: dict[str, dict[Place, Cells]] = {}
    for run, row in rows_of("paired", task):
        if int(row["correct"]) > 0:
            found.setdefault(row["variant"], {})[(run, row["iteration"])] = row
    return found


def probe_changes(task: str) -> dict[int, list[float]]:
    """Changes of correct responses' likelihood by an update on one question, by iteration."""
    changes: dict[int, list[float]] = {}
    for _, row in rows_of("probe", task):
        changes.setdefault(int(row["iteration"]), []).append(float(row["change"]))
    return changes


def column(rows: dict[Place, Cells], places: Sequence[Place], name: str) -> list[float]:
    """A measure at these places."""
    return [float(rows[place][name]) for place in places]


def paired_table(task: str) -> str:
    """Displacement by variant of the loss, and the paired difference to plain GRPO."""
    variants = paired_rows(task)
    if not variants:
        return "No records yet.\n"
    places = sorted(variants[PLAIN])
    rows = []
    for name, measured in variants.items():
        both = [place for place in places if place in measured]
        rows.append(
            [
                name,
                *_against_plain(variants[PLAIN], measured, both, "lld_rate_actions", 1, 3),
                *_against_plain(variants[PLAIN], measured, both, "lld_rate", 1, 3),
                *_against_plain(variants[PLAIN], measured, both, "lld_magnitude", 1000, 1),
                *_against_plain(variants[PLAIN], measured, both, "fixed_set_change", 1000, 1),
                f"{1000 * mean(column(measured, both, 'change_correct')):+.0f}",
                f"{1000 * mean(column(measured, both, 'change_incorrect')):+.0f}",
                f"{mean(column(measured, both, 'weights_moved')):.2f}",
            ]
        )
    measures = ("LLD rate, actions", "LLD rate, responses", "magnitude", "fixed set")
    head = ["loss", *[cell for name in measures for cell in (name, "to lambda 0")], "correct", "incorrect", "weights"]
    runs = len({run for run, _ in places})
    return f"{len(places)} rollout batches of {runs} runs.\n\n" + markdown(head, rows)


def _against_plain(
    plain: dict[Place, Cells],
    measured: dict[Place, Cells],
    places: Sequence[Place],
    name: str,
    scale: float,
    digits: int,
) -> list[str]:
    """Mean of a measure, and its paired difference to plain GRPO."""
    values, against = ([scale * value for value in column(rows, places, name)] for rows in (measured, plain))
    shown = f"{mean(values):.{digits}f}"
    return [shown, "" if measured is plain else change(paired_difference(against, values), digits)]


# Study 2


def erosion_table() -> str:
    """Likelihood of the fixed set under random rewards."""
    runs = read_runs("erosion")
    rows: list[list[Cell]] = []
    base = {run.seed: run for run in runs if (run.coefficient, run.variant) == (0.0, "")}
    for coefficient, variant in sorted(
        {(run.coefficient, run.variant) for run in runs}, key=lambda key: (key[1], key[0])
    ):
        group = [run for run in runs if (run.coefficient, run.variant) == (coefficient, variant) and run.seed in base]
        if not group:
            continue
        lost = paired_difference([base[run.seed].fixed_set[-1] for run in group], [run.fixed_set[-1] for run in group])
        rows.append(
            [
                f"{coefficient:g}",
                ANCHORS[variant],
                len(group),
                *[
                    with_error([run.fixed_set[at - 1] for run in group], 2)
                    for at in (5, 10, 20, len(group[0].fixed_set))
                ],
                change(lost, 2) if (coefficient, variant) != (0.0, "") else "",
            ]
        )
    length = len(runs[0].fixed_set) if runs else 0
    return markdown(["lambda", "anchor", "n", "after 5", "10", "20", f"{length}", "to lambda 0, at the end"], rows)


ANCHORS = {"": "old", "lagged": "lagged by 4-7", "frozen": "frozen", "positive": "old, positive only"}


# Study 3


def full_table(study: str, task: str) -> str:
    """What became of the runs, by learning rate and lambda."""
    runs = read_runs(study, task=task)
    rows = []
    for rate in sorted({run.rate for run in runs}):
        base = {run.seed: run for run in runs if (run.rate, run.coefficient, run.variant) == (rate, 0.0, "")}
        settings = sorted({(run.coefficient, run.variant) for run in runs if run.rate == rate})
        for coefficient, variant in settings:
            group = [run for run in runs if (run.rate, run.coefficient, run.variant) == (rate, coefficient, variant)]
            rows.append(_full_row(rate, coefficient, variant, group, base))
    head = [
        "learning rate", "lambda", "n", "collapsed", "halved", "first 10", "peak", "last 10", "fixed set, end",
        "last 10, to lambda 0", "p (sign)", "collapsed, p (Fisher)",
    ]  # fmt: skip
    return markdown(head, rows)


def _full_row(rate: float, coefficient: float, variant: str, group: list[Run], base: dict[int, Run]) -> list[Cell]:
    collapsed = sum(run.outcome.kind == "collapsed" for run in group)
    cells: list[Cell] = [
        f"{rate:g}",
        f"{coefficient:g}{' ' + variant if variant else ''}",
        len(group),
        collapsed,
        sum(run.halved for run in group),
        with_error([mean(run.rewards[:10]) for run in group]),
        f"{mean(run.peak for run in group):.3f}",
        with_error([run.last for run in group]),
        with_error([run.fixed_set[-1] for run in group], 2),
    ]
    paired = [run for run in group if run.seed in base]
    if coefficient == 0 or not paired:
        return [*cells, "", "", ""]
    same = [base[run.seed] for run in paired]
    found = paired_difference([run.last for run in same], [run.last for run in paired])
    of_base = sum(run.outcome.kind == "collapsed" for run in same)
    of_group = sum(run.outcome.kind == "collapsed" for run in paired)
    fisher = fisher_test(of_base, len(same), of_group, len(paired))
    return [*cells, change(found), f"{found.p:.3f}", f"{of_group}/{len(paired)} vs {of_base}/{len(same)}, {fisher:.2f}"]


def best_table() -> str:
    """The lower learning rate beside LLDS: last 10 rewards, paired by seed with the plain run at the middle rate."""
    runs = read_runs("full", task="small")
    rates = sorted({run.rate for run in runs})
    if len(rates) < 2:
        return "No records yet.\n"
    plain = {run.seed: run for run in runs if (run.rate, run.coefficient) == (rates[1], 0.0)}
    rows: list[list[Cell]] = []
    for rate, coefficient, variant in (
        (rates[0], 0.0, ""),
        (rates[0], 0.2, ""),
        (rates[1], 0.2, ""),
        (rates[1], 1.0, ""),
        (rates[1], 0.2, "positive"),
    ):
        group = [
            run
            for run in runs
            if (run.rate, run.coefficient, run.variant) == (rate, coefficient, variant) and run.seed in plain
        ]
        if group:
            found = paired_difference([plain[run.seed].last for run in group], [run.last for run in group])
            interval = f"{found.low:+.3f} to {found.high:+.3f}"
            name = f"{rate:g}, lambda {coefficient:g}{' ' + variant if variant else ''}"
            rows.append([name, found.n, change(found), interval, f"{found.p:.3f}"])
    return markdown(["instead", "n", "last 10 rewards", "95% interval", "p (sign)"], rows)


# Signs

Sign = Callable[[Run], int | None]


def turn_of_fixed_set(run: Run) -> int:
    """Iteration at which the fixed set was likeliest."""
    return 1 + max(range(len(run.fixed_set)), key=lambda at: run.fixed_set[at])


def surge(name: str, factor: float, baseline: int = 8) -> Sign:
    """First iteration from which a signal stays above a multiple of its median in the first iterations, three long."""

    def sign(run: Run) -> int | None:
        curve = [value if value is not None else 0.0 for value in run.curves[name]]
        level = factor * median(curve[:baseline])
        return next(
            (at + 1 for at in range(2, len(curve) - 2) if all(value > level for value in curve[at : at + 3])), None
        )

    return sign


def instability(run: Run) -> int | None:
    """First iteration at which the detector finds the policy unstable."""
    detector = CollapseDetector()
    for at in range(len(run.rewards)):
        row = {name: curve[at] for name, curve in run.curves.items()}
        detector.update(at, {name: value for name, value in row.items() if value is not None})
        if detector.instability.is_unstable:
            return at + 1
    return None


SIGNS: dict[str, Sign] = {
    "the fixed set's likelihood is at its highest": turn_of_fixed_set,
    "smoothed reward at its peak": lambda run: 1 + _argmax(run),
    "the detector finds the policy unstable": instability,
    "entropy stays above 1.3 times its first median": surge("policy/entropy", 1.3),
    "smoothed reward 20% under its peak for good": lambda run: (
        None if run.outcome.fall is None else run.outcome.fall + 1
    ),
    "valid actions stay below 0.8 of their first median": lambda run: _drop(run, "rollout/valid_action_rate", 0.8),
    "smoothed reward 35% under its peak": lambda run: None if run.outcome.lost is None else run.outcome.lost + 1,
}


def _argmax(run: Run) -> int:
    smoothed = smooth(run.rewards)
    return max(range(len(smoothed)), key=lambda at: smoothed[at])


def _drop(run: Run, name: str, factor: float) -> int | None:
    curve = defined(run.curves[name])
    level = factor * median(curve[:8])
    return next((at + 1 for at in range(2, len(curve) - 2) if all(value < level for value in curve[at : at + 3])), None)


def signs_table(study: str) -> str:
    """When the signs of a collapse come, in the plain runs that collapsed, and whether the others show them too."""
    runs = read_runs(study, coefficient=0.0)
    fallen = [run for run in runs if run.outcome.kind == "collapsed"]
    healthy = [run for run in runs if run.outcome.kind == "healthy"]
    rows: list[list[Cell]] = []
    for words, sign in SIGNS.items():
        found = [at for run in fallen if (at := sign(run)) is not None]
        others = sum(sign(run) is not None for run in healthy)
        middle = f"{median(found):.0f} ({min(found)}-{max(found)})" if found else "-"
        rows.append([words, f"{len(found)} of {len(fallen)}", middle, f"{others} of {len(healthy)}"])
    return markdown(["sign", "collapsed runs", "iteration: median (range)", "healthy runs that show it"], rows)


# Protection


def protect_table() -> str:
    """What `conf/collapse/protect.yaml` kept of the runs that collapse without it."""
    plain = {(run.rate, run.seed): run for run in read_runs("full", task="small", coefficient=0.0)}
    runs = [run for run in read_runs("protect") if (run.rate, run.seed) in plain]
    fallen = [run for run in runs if plain[(run.rate, run.seed)].outcome.kind == "collapsed"]
    rows: list[list[Cell]] = []
    for words, chosen in (
        ("collapse", fallen),
        ("... of which fall slowly", [run for run in fallen if not plain[(run.rate, run.seed)].outcome.is_cliff]),
        ("... and are cliffs", [run for run in fallen if plain[(run.rate, run.seed)].outcome.is_cliff]),
        ("do not collapse", [run for run in runs if run not in fallen]),
    ):
        if chosen:
            without = [plain[(run.rate, run.seed)] for run in chosen]
            kept = [run.last / before.peak for run, before in zip(chosen, without, strict=True)]
            rows.append(
                [
                    words,
                    len(chosen),
                    f"{mean(run.peak for run in without):.3f}",
                    with_error([run.last for run in without]),
                    with_error([run.last for run in chosen]),
                    f"{mean(kept):.0%}",
                    sum(share >= 0.9 for share in kept),
                ]
            )
    head = ["runs that, without it,", "n", "peak", "last 10, without", "last 10, with", "of the peak", ">= 90% of it"]
    return markdown(head, rows)


def probe_table(task: str) -> str:
    """The paper's per-sample probe: questions whose correct responses lose likelihood in one update on them alone."""
    rewards: dict[int, list[float]] = {}
    for _, row in rows_of("probe", task):
        rewards.setdefault(int(row["iteration"]), []).append(float(row["reward"]))
    rows = [
        [
            str(iteration),
            str(len(changes)),
            f"{mean(rewards[iteration]):.2f}",
            f"{sum(value < 0 for value in changes) / len(changes):.2f}",
            f"{1000 * median(changes):+.1f}",
        ]
        for iteration, changes in sorted(probe_changes(task).items())
    ]
    return markdown(["iteration", "questions", "reward", "share that loses", "median change, 1e-3 nats"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "paired-small": lambda: paired_table("small"),
    "paired-quickstart": lambda: paired_table("quickstart"),
    "paired-wide": lambda: paired_table("wide"),
    "probe": lambda: probe_table("small"),
    "probe-wide": lambda: probe_table("wide"),
    "erosion": erosion_table,
    "full-small": lambda: full_table("full", "small"),
    "full-best": best_table,
    "longer": lambda: full_table("longer", "small"),
    "full-quickstart": lambda: full_table("quickstart", "quickstart"),
    "signs": lambda: signs_table("full"),
    "wide": lambda: full_table("wide", "wide"),
    "wide-signs": lambda: signs_table("wide"),
    "protect": protect_table,
}

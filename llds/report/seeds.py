"""The runs of a page as experiments: those that differ in their seeds alone, as means over training runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from llds.evaluation import SeedGroup, group_by_seed, missing_figures, seed_notes, seed_table
from llds.monitor import signals as s
from llds.report.courses import seeded
from llds.report.curves import alarm_starts
from llds.report.run import Run
from llds.report.tables import LAST, Table

_DIGITS = {
    f"reward, last {LAST}": 3,
    "reward, best": 3,
    f"likelihood of correct responses, last {LAST}": 3,
    f"tool calls, last {LAST}": 2,
    "alarms": 1,
}


@dataclass(frozen=True)
class Experiments:
    """The table of experiments, as it is shown and as it is copied.

    Attributes:
        table: As it is shown.
        texts: The same as CSV, Markdown and LaTeX, by name.
        notes: What a reader must know of it: what the figures are first.
    """

    table: Table
    texts: dict[str, str]
    notes: list[str]


def experiments(runs: Sequence[Run]) -> Experiments | None:
    """The means over seeds; None where no two runs are one experiment.

    Args:
        runs: Of the page.
    """
    all_seeded = [seeded(run) for run in runs]
    groups = group_by_seed(all_seeded)
    if len(groups) == len(runs):
        return None
    note = (
        f"Means over training runs, of the training's own figures (last {LAST}: mean of the last {LAST} iterations, "
        "or of all where there are fewer); after ± half of the 95% interval of the mean (Student's t)."
    )
    table = seed_table(groups, all_seeded, [_figures(run) for run in runs], _DIGITS, note)
    shown = Table(
        [*table.labels, *table.figures],
        [[*names, *table.cells(row)] for row, names in enumerate(table.names)],
    )
    texts = {"CSV": table.text("csv"), "Markdown": table.text("md"), "LaTeX": table.text("latex")}
    notes = [*seed_notes(groups, all_seeded), *missing_figures(table, groups, all_seeded), *_lengths(groups, runs)]
    return Experiments(shown, texts, [note, *notes])


def _figures(run: Run) -> dict[str, float]:
    rewards, likelihoods = run.series(s.REWARD)[1], run.series(s.LIKELIHOOD_CORRECT)[1]
    calls, alarms = run.series(s.TOOL_CALLS)[1], [float(len(alarm_starts(run.diagnoses)))]
    values = (rewards[-LAST:], [max(rewards)] if rewards else [], likelihoods[-LAST:], calls[-LAST:], alarms)
    return {name: fmean(some) for name, some in zip(_DIGITS, values, strict=True) if some}


def _lengths(groups: Sequence[SeedGroup], runs: Sequence[Run]) -> list[str]:
    """Say which runs of one experiment are not equally long: their last iterations are not the same ones."""
    notes = []
    for group in groups:
        lengths = {runs[number].name: runs[number].table.rows[-1][0] for number in group.members}
        if len(set(lengths.values())) > 1:
            ends = ", ".join(f"{name} {last}" for name, last in lengths.items())
            notes.append(f"Not equally long (last iteration: {ends}): the last {LAST} are not the same iterations.")
    return notes

"""A table as other programs take it: CSV, Markdown and LaTeX."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from llds.evaluation.seed_groups import SeededRun, SeedGroup, SeedMean

TableFormat = Literal["csv", "md", "latex"]
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip


@dataclass(frozen=True)
class PaperTable:
    """Experiments in rows, figures in columns.

    Attributes:
        labels: Names of the columns that say which experiment a row is.
        figures: Names of the columns of figures.
        names: For each row, the cells of the first columns.
        means: For each row, the figures; None where no run has it.
        digits: Decimals that are shown.
        note: What the figures are, in a sentence.
    """

    labels: Sequence[str]
    figures: Sequence[str]
    names: Sequence[Sequence[str]]
    means: Sequence[Sequence[SeedMean | None]]
    digits: Sequence[int]
    note: str

    def text(self, table_format: TableFormat) -> str:
        """The table as text, with an end of line.

        Args:
            table_format: ``csv`` has a row for each figure, with all digits; ``md`` is Markdown; ``latex`` needs the
                package booktabs.
        """
        return {"csv": self._csv, "md": self._markdown, "latex": self._latex}[table_format]()

    def cells(self, row: int, sign: str = " ± ", nothing: str = "-") -> list[str]:
        """The figures of a row as they are shown: mean and half of the interval.

        Args:
            row: Its number.
            sign: Between the two.
            nothing: In the place of a figure that is not there.
        """
        shown = []
        for mean, digits in zip(self.means[row], self.digits, strict=True):
            half = None if mean is None else mean.half_width
            value = nothing if mean is None else f"{mean.mean:.{digits}f}"
            shown.append(value if half is None else f"{value}{sign}{half:.{digits}f}")
        return shown

    def _csv(self) -> str:
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        ends = ["figure", "runs", "of_runs", "mean", "low", "high", "standard_deviation", "values"]
        writer.writerow([*self.labels, *ends])
        for names, means in zip(self.names, self.means, strict=True):
            for figure, mean in zip(self.figures, means, strict=True):
                writer.writerow([*names, figure, *_numbers(mean)])
        return file.getvalue()

    def _markdown(self) -> str:
        head = [*self.labels, *self.figures]
        rows = [[*names, *self.cells(row)] for row, names in enumerate(self.names)]
        lines = [head, ["---"] * len(self.labels) + ["---:"] * len(self.figures), *rows]
        table = "".join(f"| {' | '.join(map(_in_bars, line))} |\n" for line in lines)
        return f"{table}\n{self.note}\n"

    def _latex(self) -> str:
        head = " & ".join(_escaped(cell) for cell in (*self.labels, *self.figures))
        rows = [
            " & ".join([*map(_escaped, names), *(_in_math(cell) for cell in self.cells(row, r" \pm ", "--"))])
            for row, names in enumerate(self.names)
        ]
        columns = "l" * len(self.labels) + "r" * len(self.figures)
        body = "".join(f"{row} \\\\\n" for row in rows)
        return (
            f"% \\usepackage{{booktabs}}. {_one_line(self.note)}\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n"
            f"{head} \\\\\n\\midrule\n{body}\\bottomrule\n\\end{{tabular}}\n"
        )


def seed_table(
    groups: Sequence[SeedGroup],
    runs: Sequence[SeededRun],
    figures: Sequence[Mapping[str, float]],
    digits: Mapping[str, int],
    note: str,
) -> PaperTable:
    """The table of some groups: their settings, their seeds, and the means of their figures.

    Args:
        groups: Of the runs.
        runs: All of them.
        figures: Of each run, by name.
        digits: Decimals of each figure, in the order of the columns.
        note: What the figures are.
    """
    settings = list(dict.fromkeys(name for group in groups for name in group.settings))
    rows = [[group.settings.get(name, "-") for name in settings] for group in groups]
    labels = [*settings, "seeds"]
    if not settings or any(not runs[group.members[0]].settings.values for group in groups):
        labels.insert(0, "experiment")
        rows = [
            [", ".join(runs[one].name for one in group.members), *row] for group, row in zip(groups, rows, strict=True)
        ]
    for group, row in zip(groups, rows, strict=True):
        seeds = [runs[number].settings.seed for number in group.members]
        row.append((", " if all(map(str.isalnum, seeds)) else "; ").join(seeds))
    means = [[_mean([figures[number] for number in group.members], name) for name in digits] for group in groups]
    return PaperTable(labels, list(digits), rows, means, list(digits.values()), note)


def missing_figures(table: PaperTable, groups: Sequence[SeedGroup], runs: Sequence[SeededRun]) -> list[str]:
    """One sentence for each figure that some runs of a group have and others have not.

    Args:
        table: Of the groups.
        groups: Of the runs.
        runs: All of them.
    """
    return [
        f"{figure} is the mean of {len(mean.values) if mean else 0} of {len(group.members)} runs "
        f"({', '.join(runs[number].name for number in group.members)}): the others have no such figure."
        for group, means in zip(groups, table.means, strict=True)
        for figure, mean in zip(table.figures, means, strict=True)
        if len(mean.values if mean else ()) < len(group.members)
    ]


def _mean(figures: Sequence[Mapping[str, float]], name: str) -> SeedMean | None:
    values = tuple(one[name] for one in figures if name in one)
    return SeedMean(values, len(figures)) if values else None


def _numbers(mean: SeedMean | None) -> list[str]:
    if mean is None:
        return ["0", "", "", "", "", "", ""]
    half, deviation = mean.half_width, mean.deviation
    low, high = ("", "") if half is None else (f"{mean.mean - half:.10g}", f"{mean.mean + half:.10g}")
    values = " ".join(f"{value:.10g}" for value in mean.values)
    counts = [str(len(mean.values)), str(mean.runs)]
    return [*counts, f"{mean.mean:.10g}", low, high, "" if deviation is None else f"{deviation:.10g}", values]


def _in_bars(text: str) -> str:
    return _one_line(text).replace("|", "\\|")


def _in_math(cell: str) -> str:
    return cell if cell == "--" else f"${cell}$"


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in _one_line(text))


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()

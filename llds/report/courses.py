"""What the curves draw: a run, or the mean of the runs that differ in their seeds alone, with the band they span."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from llds.evaluation import SeededRun, SeedGroup, group_by_seed
from llds.evaluation.settings import run_settings
from llds.monitor import signals as s
from llds.report.run import Run
from llds.report.style import COLORS

Band = dict[int, tuple[float, float]]
"""Lowest and highest value of the seeds, by iteration."""


@dataclass(frozen=True)
class Course:
    """What has a color of its own in the curves.

    Attributes:
        name: Of the run, or what tells its experiment from the others.
        runs: One, or those of one experiment.
        repeats: Runs that came to the very result of one of these: they count once.
        color: Of its lines.
    """

    name: str
    runs: tuple[Run, ...]
    repeats: tuple[Run, ...]
    color: str

    def series(self, signal: str) -> tuple[list[int], list[float], Band]:
        """Iterations as far as all runs that have the signal go, its mean over those that have it there, its band."""
        found = [dict(zip(*run.series(signal), strict=True)) for run in self.runs]
        found = [points for points in found if points]
        last = min((max(points) for points in found), default=0)
        xs = sorted({x for points in found for x in points if x <= last})
        values = [[points[x] for points in found if x in points] for x in xs]
        band = {x: (min(some), max(some)) for x, some in zip(xs, values, strict=True)} if len(found) > 1 else {}
        return xs, [fmean(some) for some in values], band


def courses(runs: Sequence[Run]) -> list[Course]:
    """The runs of a page as the curves show them, in the order of the first of each.

    Args:
        runs: At least one.
    """
    groups = group_by_seed([seeded(run) for run in runs])
    return [_course(group, runs, COLORS[at % len(COLORS)]) for at, group in enumerate(groups)]


def seeded(run: Run) -> SeededRun:
    """A run as the statistics over seeds see it."""
    result = tuple(tuple(run.series(signal)[1]) for signal in (s.REWARD, s.LIKELIHOOD_CORRECT, s.ENTROPY))
    return SeededRun(run.name, run_settings(run.config), {}, result)


def color_of(run: Run, drawn: Sequence[Course]) -> str:
    """The color of a run: that of its course."""
    return next(one.color for one in drawn if any(run is member for member in one.runs + one.repeats))


def _course(group: SeedGroup, runs: Sequence[Run], color: str) -> Course:
    members, repeats = (tuple(runs[number] for number in numbers) for numbers in (group.members, group.repeats))
    names = [run.name for run in members]
    told = ", ".join(f"{key} {value}" for key, value in group.settings.items()) or " + ".join(names)
    return Course(f"{told} ({len(names)} seeds)" if len(names) > 1 else names[0], members, repeats, color)

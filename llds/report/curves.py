"""The curves: signals over iterations, with phases, alarms and what the ladder did marked in each of them.

All panels share their horizontal axis and a cross-hair. Colors and dashes tell lines apart together, so that neither is
needed alone. Left out on purpose: which curves there are (`llds.report.panels`), and which runs are one line
(`llds.report.courses`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource, CrosshairTool, FixedTicker, HoverTool, Range1d
from bokeh.models.annotations import Legend, LegendItem, Span
from bokeh.plotting import figure

from llds.monitor import Diagnosis, Phase
from llds.report.courses import Band, Course, color_of
from llds.report.panels import Panel
from llds.report.run import Run
from llds.report.style import COLORS, DASHES, PHASE_COLORS, PLAIN, styled
from llds.report.thinning import thinned

_LOGARITHMIC = 30
"""Largest over smallest value from which a panel of positive values has a logarithmic axis."""
_LARGEST_INT32 = 2**31 - 1


@dataclass(frozen=True)
class Axis:
    """What all panels of a page share.

    Attributes:
        first: Its left end.
        last: Its right end.
        x_range: Iterations from the one to the other.
        crosshair: Vertical line under the pointer.
        marks: Phases, alarms and actions.
    """

    first: float
    last: float
    x_range: Range1d
    crosshair: Span
    marks: list[ColumnDataSource]

    @classmethod
    def over(cls, runs: Sequence[Run], drawn: Sequence[Course]) -> "Axis":
        """The axis over all iterations of some runs, drawn as these courses."""
        iterations = [iteration for run in runs for iteration, _ in run.table.rows]
        first, last = min(iterations), max(iterations)
        room = 0.5 if first == last else 0.0  # a single iteration is a point in the middle
        ends = first - room, last + room
        x_range = Range1d(start=ends[0], end=ends[1], bounds="auto")
        return cls(*ends, x_range, Span(dimension="height", line_color=PLAIN, line_alpha=0.6), _marks(runs, drawn))


@dataclass(frozen=True)
class _Line:
    """One line of a panel."""

    course: Course
    label: str
    xs: list[int]
    ys: list[float]
    band: Band
    color: str
    dash: str


def curve(panel: Panel, drawn: Sequence[Course], axis: Axis, most_points: int) -> figure:
    """Draw a panel.

    Args:
        panel: What to show.
        drawn: At least one of them has data for it.
        axis: Shared with the other panels.
        most_points: Of a line.
    """
    lines = _lines(panel, drawn, most_points)
    is_log = _is_logarithmic(lines)
    plot = figure(
        height=220,
        x_range=axis.x_range,
        y_axis_type="log" if is_log else "linear",
        sizing_mode="stretch_width",
        tools="xpan,xwheel_zoom,box_zoom,reset,save",
        active_drag=None,  # a finger that scrolls the page must not move a plot
        active_scroll=None,
    )
    _mark(plot, axis.marks)
    glyphs = [(line, _draw(plot, line, is_log)) for line in lines]
    if panel.level is not None:
        plot.add_layout(Span(location=panel.level, dimension="width", line_color=PLAIN, line_dash="dotted"))
    if len(panel.lines) > 1:
        first = {line.label: glyph for line, glyph in reversed(glyphs)}
        items = [LegendItem(label=label, renderers=[glyph]) for label, glyph in reversed(first.items())]
        plot.add_layout(Legend(items=items, orientation="horizontal", click_policy="hide"), "above")
    tips = [("", "$name"), ("iteration", "@x"), (panel.unit or "value", "@y{0.0000a}")]
    plot.add_tools(HoverTool(tooltips=tips, renderers=[glyph for _, glyph in glyphs]))
    plot.add_tools(CrosshairTool(overlay=axis.crosshair, dimensions="height"))
    styled(plot, panel.title, "iteration", panel.unit)
    _iteration_ticks(plot, axis)
    return plot


def _lines(panel: Panel, drawn: Sequence[Course], most_points: int) -> list[_Line]:
    """One course: a color for each signal. Several: one for each course, a dash for each signal, the first's band."""
    lines = []
    for course in drawn:
        for position, (signal, label) in enumerate(panel.lines.items()):
            xs, ys, band = course.series(signal)
            if xs:
                color = course.color if len(drawn) > 1 else COLORS[position % len(COLORS)]
                dash = DASHES[position % len(DASHES)]
                band = {} if position and len(drawn) > 1 else band  # of several courses, all bands would hide the lines
                lines.append(_Line(course, label, *thinned(xs, ys, most_points), band, color, dash))
    return lines


def _is_logarithmic(lines: Sequence[_Line]) -> bool:
    values = [value for line in lines for value in line.ys]
    positive = [value for value in values if value > 0]
    return len(positive) > 0.9 * len(values) and min(values) >= 0 and max(positive) > _LOGARITHMIC * min(positive)


def _draw(plot: figure, line: _Line, is_log: bool) -> Any:
    """A logarithmic axis has no place for 0."""
    points = [(x, y) for x, y in zip(line.xs, line.ys, strict=True) if y > 0 or not is_log]
    # Arrays are small in the page; numbers one by one are not. Steps that count tokens outgrow what is small.
    is_small = all(abs(x) <= _LARGEST_INT32 for x, _ in points)
    xs = np.array([x for x, _ in points], np.int32 if is_small else np.float64)
    columns = {"x": xs, "y": np.array([y for _, y in points], np.float32)}
    if line.band and len(points) > 1:
        spans = [line.band[x] for x, _ in points]
        # A logarithmic band ends at the mean where a seed has 0.
        low = [low if low > 0 or not is_log else y for (low, _), (_, y) in zip(spans, points, strict=True)]
        band = columns | {"low": np.array(low, np.float32), "high": np.array([high for _, high in spans], np.float32)}
        plot.varea("x", "low", "high", source=ColumnDataSource(band), fill_color=line.color, fill_alpha=0.18)
    source, name = ColumnDataSource(columns), f"{line.course.name}: {line.label}"
    if len(points) == 1:
        return plot.scatter("x", "y", source=source, size=8, color=line.color, name=name)
    return plot.line("x", "y", source=source, line_width=2, line_dash=line.dash, color=line.color, name=name)


def _marks(runs: Sequence[Run], drawn: Sequence[Course]) -> list[ColumnDataSource]:
    """Where phases begin and end (of a single run), alarms begin and the ladder acts; one for all plots of a page."""
    bands = [band for band in phase_bands(runs[0].diagnoses) if band[0] != "healthy"] if len(runs) == 1 else []
    colored = [(run, color_of(run, drawn) if len(drawn) > 1 else PLAIN) for run in runs]
    alarms = [(iteration, color) for run, color in colored for iteration in alarm_starts(run.diagnoses)]
    actions = [(one.iteration, color) for run, color in colored for one in run.incidents if one.has_acted]
    strips = {
        "start": [start for _, start, _ in bands],
        "end": [end for _, _, end in bands],
        "color": [PHASE_COLORS[phase] for phase, _, _ in bands],
    }
    lines = [{"x": [x for x, _ in found], "color": [color for _, color in found]} for found in (alarms, actions)]
    return [ColumnDataSource(columns) for columns in (strips, *lines)]


def _mark(plot: figure, marks: Sequence[ColumnDataSource]) -> None:
    """Phases as bands, alarms as dashed and actions as dotted lines; of a healthy run there are none to draw."""
    phases, alarms, actions = marks
    if phases.data["start"]:
        plot.vstrip("start", "end", fill_color="color", fill_alpha=0.35, line_width=0, source=phases, level="underlay")
    for source, dash in ((alarms, "dashed"), (actions, "dotted")):
        if source.data["x"]:
            plot.vspan("x", line_color="color", line_dash=dash, line_width=2, source=source)


def _iteration_ticks(plot: figure, axis: Axis) -> None:
    """Iterations are whole numbers."""
    if axis.last - axis.first <= 10:
        plot.xaxis.ticker = FixedTicker(ticks=list(range(math.ceil(axis.first), math.floor(axis.last) + 1)))


def phase_bands(diagnoses: Sequence[Diagnosis]) -> list[tuple[Phase, int, int]]:
    """Phases with the first iteration of each and the first of the next; the last one ends with the run."""
    bands: list[tuple[Phase, int, int]] = []
    for diagnosis in diagnoses:
        if bands and bands[-1][0] == diagnosis.phase:
            bands[-1] = (*bands[-1][:2], diagnosis.iteration)
        else:
            if bands:
                bands[-1] = (*bands[-1][:2], diagnosis.iteration)
            bands.append((diagnosis.phase, diagnosis.iteration, diagnosis.iteration))
    return bands


def alarm_starts(diagnoses: Sequence[Diagnosis]) -> list[int]:
    """Iterations at which an alarm began."""
    levels = ["none", *(diagnosis.level for diagnosis in diagnoses)]
    return [
        diagnosis.iteration
        for before, diagnosis in zip(levels, diagnoses, strict=False)
        if diagnosis.level == "alarm" and before != "alarm"
    ]

"""The page: everything in one HTML file that opens from disk, without a network."""

import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

from bokeh.document import Document
from bokeh.embed import components
from bokeh.plotting import figure
from bokeh.resources import Resources
from jinja2 import Environment, Template
from markupsafe import Markup, escape

from llds.monitor.diagnosis import PHASES
from llds.report.courses import Course, color_of, courses
from llds.report.curves import Axis, alarm_starts, curve
from llds.report.events import events
from llds.report.panels import Panel, other_panels, sections
from llds.report.probes import Pull, agreement_plot, bars, drawn_probes, strongest_pulls
from llds.report.run import Run
from llds.report.seeds import experiments
from llds.report.style import PHASE_COLORS
from llds.report.tables import comparison, config_differences, settings
from llds.report.thinning import MOST_POINTS
from llds.report.trajectories import FULL_COLOR, LEVELS, reported_trajectories

ROOM_FOR_TRAJECTORIES = 1_400_000
"""Bytes on the page, shared by the runs; with plots and their library it stays below 5 MB."""
_FULL_POINTS_RUNS = 3
"""Runs up to which lines have all their points."""


def write_report(runs: Sequence[Run], path: str | Path) -> Path:
    """Write the report; an older one is replaced whole.

    Args:
        runs: At least one; several are overlaid and compared.
        path: The HTML file.

    Returns:
        The path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{path.name}")
    partial.write_text(render(runs), encoding="utf-8")
    os.replace(partial, path)
    return path


def render(runs: Sequence[Run]) -> str:
    """The page as text."""
    logged = {signal for run in runs for signal in run.logged}
    drawn = courses(runs)
    axis, plots = Axis.over(runs, drawn), _Plots()
    curves = [
        (one.title, [plots.add(panel.title, _curve(panel, drawn, axis)) for panel in one.panels])
        for one in sections(logged)
    ]
    probed = [(run, *_probe_plots(run, plots)) for run in runs if run.probes]
    axis, others = Axis.over(runs, drawn), _Plots()  # a range is shared by the plots of one document
    for panel in other_panels(logged):
        others.add(panel.about, _curve(panel, drawn, axis, MOST_POINTS // 2))
    places, script = plots.embedded()
    other_places, other_script = others.embedded()
    room = ROOM_FOR_TRAJECTORIES // len(runs)
    return _page().render(
        runs=runs,
        drawn=drawn,
        colors=[color_of(run, drawn) for run in runs],
        phases=[(PHASES[phase], color) for phase, color in PHASE_COLORS.items() if phase != "healthy"],
        verdicts=[run.diagnoses[-1] for run in runs],
        judged=[run.verdict for run in runs],
        events=[events(run) for run in runs],
        bokeh=Markup(Resources(mode="inline", components=["bokeh"]).render_js()),  # noqa: S704 (bokeh's own)
        curves=curves,
        probed=probed,
        places=places,
        script=script,
        other_places=other_places,
        other_script=other_script,
        comparison=comparison(runs),
        experiments=experiments(runs),
        differences=config_differences(runs),
        settings=[settings(run) for run in runs],
        trajectories=[reported_trajectories(run, alarm_starts(run.diagnoses), room) for run in runs],
        full_color=FULL_COLOR,
        levels=LEVELS,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


class _Plots:
    """Plots that one script draws, by number."""

    def __init__(self) -> None:
        self._plots: list[figure] = []
        self._titles: list[str] = []

    def add(self, title: str, plot: figure) -> int:
        """Add a plot; its number."""
        self._plots.append(plot)
        self._titles.append(title)
        return len(self._plots) - 1

    def embedded(self) -> tuple[list[tuple[str, Markup]], Markup]:
        """Title and place of each, and the script that draws them there, without tags around it."""
        if not self._plots:
            return [], Markup()
        document = Document()
        with document.models.freeze():  # else it looks at all models again with every plot
            for plot in self._plots:
                document.add_root(plot)
        script, places = components(tuple(self._plots), wrap_script=False)
        pairs = zip(self._titles, places, strict=True)
        return [(title, Markup(place)) for title, place in pairs], Markup(script)  # noqa: S704 (bokeh's own)


def _curve(panel: Panel, drawn: Sequence[Course], axis: Axis, points: int = MOST_POINTS) -> figure:
    return curve(panel, drawn, axis, points * _FULL_POINTS_RUNS // max(_FULL_POINTS_RUNS, len(drawn)))


def _probe_plots(run: Run, plots: _Plots) -> tuple[list[int], int | None, list[Pull]]:
    """Bars of some probes; of the last one also G against what was measured, and who pulls whom."""
    drawn = drawn_probes(run.probes)
    numbers = [plots.add(f"LLD of each question, {probe.name}", bars(probe)) for probe in drawn]
    if not drawn:
        return [], None, []
    return numbers, plots.add("G and the measured change", agreement_plot(drawn[-1])), strongest_pulls(drawn[-1])


def _page() -> Template:
    # What a trajectory says is text, whatever it says: autoescape keeps its tags from becoming the page's.
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["code"] = _code
    return environment.from_string(files("llds.report").joinpath("page.html").read_text(encoding="utf-8"))


def _code(text: str) -> Markup:
    """A text in which what stands between backticks is set as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 (escaped)

"""The LLD probes of a run: the bars of figure 3a, G against the measured change, and who pulls whom.

Reads the ``probe.json`` that `llds probe` and `LLDProbe` write (docs/probes.md).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bokeh.models import ColumnDataSource, HoverTool
from bokeh.models.annotations import Legend, LegendItem, Span
from bokeh.plotting import figure

from llds.errors import DataError
from llds.report.style import COLORS, GAINED, LOST, PLAIN, styled

SHOWN = 4
"""Most probes of a run that are drawn: the first, the last, and some between."""
PULLS = 8
"""Rows of the table of pulls."""


@dataclass(frozen=True)
class ReportedProbe:
    """A probe.

    Attributes:
        name: Of its folder, such as ``iteration 20`` or ``iteration 20, sgd``.
        record: As it was written.
    """

    name: str
    record: dict[str, Any]

    @property
    def questions(self) -> list[dict[str, Any]]:
        """Questions, those that lose most first."""
        return sorted(self.record["questions"], key=lambda one: one["change_per_token"])

    @property
    def summary(self) -> str:
        """One sentence."""
        questions, share = len(self.record["questions"]), self.record["share_negative"]
        if share is None:
            return f"none of {self.record['asked']} questions had right and wrong answers"
        phase = "; above 50%, as in phase III" if self.record["is_phase_iii"] else ""
        return (
            f"{share:.0%} of {questions} questions lose likelihood{phase}; "
            f"mean {self.record['mean_change']:+.4f} nats per token"
        )

    @property
    def agreement(self) -> str:
        """How G agrees with what was measured, in words; empty where it cannot be said."""
        found = self.record["agreement_with_g"]
        if found is None:
            return ""
        return (
            f"{found['pairs']} correct actions: rank correlation {found['spearman']:+.2f}, "
            f"linear {found['pearson']:+.2f}, the same sign in {found['same_sign']:.0%}"
        )


@dataclass(frozen=True)
class Pull:
    """A correct action that an update threatens, and the wrong trajectory that pulls it down most.

    Attributes:
        question: As text.
        action: The correct action.
        change: That was measured, in nats.
        g: Of theorem A.2; above 0 it falls, says the theory.
        wrong: The trajectory's actions; empty where no wrong trajectory pulls it down.
        share: Share of all wrong trajectories' pull, 0-1.
    """

    question: str
    action: str
    change: float
    g: float
    wrong: list[str]
    share: float


def read_probes(run: Path) -> list[ReportedProbe]:
    """The probes of a run's folder, in order.

    Args:
        run: Folder of the run.

    Raises:
        DataError: If a file is damaged.
    """
    return [_read(path) for path in sorted(run.glob("probes/iteration-*/probe.json"))]


def _read(path: Path) -> ReportedProbe:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"Expected a probe in {path}, got: {error}. Remove the file.") from error
    label = path.parent.name.split("-", 2)[2:]
    return ReportedProbe(", ".join([f"iteration {record['iteration']}", *label]), record)


def drawn_probes(probes: Sequence[ReportedProbe]) -> list[ReportedProbe]:
    """Up to `SHOWN` probes with questions, evenly chosen; the first and the last among them."""
    usable = [probe for probe in probes if probe.record["questions"]]
    if len(usable) <= SHOWN:
        return usable
    return [usable[round(number * (len(usable) - 1) / (SHOWN - 1))] for number in range(SHOWN)]


def bars(probe: ReportedProbe) -> figure:
    """Figure 3a: a bar for each question, sorted, below zero where its correct responses lose likelihood."""
    questions = probe.questions
    changes = [one["change_per_token"] for one in questions]
    columns = {
        "number": list(range(1, len(changes) + 1)),
        "change": changes,
        "color": [LOST if change < 0 else GAINED for change in changes],
        "hatch": ["right_diagonal_line" if change < 0 else "blank" for change in changes],
        "question": [one["question"] for one in questions],
    }
    plot = _plot()
    plot.vbar(
        x="number",
        top="change",
        color="color",
        hatch_pattern="hatch",
        source=ColumnDataSource(columns),
        width=0.8,
        hatch_color="white",
        hatch_alpha=0.6,
        line_width=0,
    )
    plot.add_tools(HoverTool(tooltips=[("question", "@question"), ("nats per token", "@change{+0.00000}")]))
    plot.add_layout(Span(location=0, dimension="width", line_color=PLAIN))
    plot.xgrid.visible = False
    styled(plot, f"{probe.name}: {probe.record['share_negative']:.0%} negative", "questions, sorted", "nats per token")
    return plot


def agreement_plot(probe: ReportedProbe) -> figure:
    """The measured change of each correct action against what G foretells, both per token."""
    plot = _plot()
    items: list[LegendItem] = []
    for number, (place, marker) in enumerate((("first", "circle"), ("later", "triangle"), ("answer", "square"))):
        actions = [one for question in probe.questions for one in question["actions"] if one["place"] == place]
        columns = {
            "foretold": [-one["g"] / one["tokens"] for one in actions],
            "change": [one["change"] / one["tokens"] for one in actions],
            "action": [one["text"] for one in actions],
        }
        glyph: Any = plot.scatter(
            "foretold",
            "change",
            source=ColumnDataSource(columns),
            marker=marker,
            size=7,
            fill_alpha=0.5,
            color=COLORS[number],
        )
        items += [LegendItem(label=place, renderers=[glyph])] if actions else []
    tips = [("action", "@action"), ("-G per token", "@foretold{+0.0000}"), ("nats per token", "@change{+0.00000}")]
    plot.add_tools(HoverTool(tooltips=tips))
    for location in ("width", "height"):
        plot.add_layout(Span(location=0, dimension=location, line_color=PLAIN, line_dash="dotted"))
    plot.add_layout(Legend(items=items, orientation="horizontal"), "above")
    title = f"{probe.name}: what G foretells, and what was measured"
    styled(plot, title, "-G per token, per unit of learning rate", "nats per token")
    return plot


def strongest_pulls(probe: ReportedProbe) -> list[Pull]:
    """The correct actions with the largest G, each once, and who pulls them."""
    distinct = {
        (one["prompt_id"], action["text"]): (one, action) for one in probe.questions for action in one["actions"]
    }
    chosen = sorted(distinct.values(), key=lambda pair: -pair[1]["g"])[:PULLS]
    return [_pull(one, action) for one, action in chosen]


def _pull(question: dict[str, Any], action: dict[str, Any]) -> Pull:
    wrong = [
        (pull, trajectory["turns"])
        for pull, trajectory in zip(action["pulls"], question["trajectories"], strict=True)
        if not trajectory.get("is_correct", trajectory["reward"] == 1) and pull < 0
    ]
    strongest, turns = min(wrong, key=lambda pair: pair[0], default=(0.0, []))
    return Pull(
        question=question["question"],
        action=action["text"],
        change=action["change"],
        g=action["g"],
        wrong=[text for text, _ in turns],
        share=strongest / sum(pull for pull, _ in wrong) if wrong else 0.0,
    )


def _plot() -> figure:
    return figure(height=220, sizing_mode="stretch_width", tools="box_zoom,reset,save", active_drag=None)

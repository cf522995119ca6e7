"""Which curves the report shows, in which order: what the paper's figures show first, then every other signal.

Signals are those of `llds.monitor.signals`; one that is added there appears on the page by itself.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from llds.monitor import signals as s

_SHARED_AXIS = re.compile(r"_(first|later|answer|correct|incorrect|positive|negative|min|max|mean|p99|\d+(_up)?)$")


@dataclass(frozen=True)
class Panel:
    """One plot.

    Attributes:
        title: Above it.
        unit: Of its vertical axis.
        lines: Metric keys, and what the legend calls them.
        level: Height of a horizontal line that matters; None without one.
        about: What its signals mean, for those who point at it or cannot see it.
    """

    title: str
    unit: str
    lines: dict[str, str]
    level: float | None = None
    about: str = ""


@dataclass(frozen=True)
class Section:
    """Some panels under one heading.

    Attributes:
        title: The heading.
        panels: In order.
    """

    title: str
    panels: list[Panel] = field(default_factory=list)


def _family(name: str, *kinds: str, plain: str = "all") -> dict[str, str]:
    """A signal and its kinds: `name`, `name_first`, ..."""
    return {name: plain} | {f"{name}_{kind}": kind for kind in kinds}


_PLACES = ("first", "later", "answer")
_CHOSEN = (
    Section(
        "The course of the run (as figure 2 of the paper)",
        [
            Panel("Reward", "mean reward", {s.REWARD: "reward"}),
            Panel(
                "Likelihood of correct responses",
                "nats per token",
                {s.LIKELIHOOD_CORRECT: "this iteration's", s.PROBE_LIKELIHOOD: "a fixed set of early ones"},
            ),
            Panel("Entropy", "nats", {s.ENTROPY: "entropy"}),
            Panel("Gradient norm before clipping", "norm", {s.GRAD_NORM: "gradient norm"}),
        ],
    ),
    Section(
        "Displacement of likelihood (in part figure 9a of the paper)",
        [
            Panel(
                "Change of likelihood by the updates",
                "nats per token",
                {s.DISPLACEMENT_CORRECT: "correct responses", s.DISPLACEMENT_INCORRECT: "incorrect"},
                level=0.0,
            ),
            Panel("Correct actions that lost likelihood", "share", _family(s.LLD_RATE, *_PLACES), level=0.5),
            Panel(
                "Likelihood of correct and incorrect",
                "nats per token",
                {s.LIKELIHOOD_CORRECT: "correct", s.LIKELIHOOD_INCORRECT: "incorrect"},
            ),
            Panel(
                "Probed questions that lose likelihood",
                "share",
                {s.PROBE_SHARE_NEGATIVE: "questions that lose"},
                level=0.5,
            ),
        ],
    ),
    Section(
        "What the agent does (as figures 9b, 5 and 6 of the paper)",
        [
            Panel("Tool calls per question", "count", {s.TOOL_CALLS: "tool calls"}),
            Panel("Wrong that began like right ones", "share", {s.FIRST_ACTION_MATCH: "match"}),
            Panel(
                "Likelihood of correct actions",
                "nats per token",
                {f"{s.LIKELIHOOD_CORRECT}_{place}": place for place in _PLACES},
            ),
            Panel(
                "Negative log-likelihood by turn",
                "nats per token",
                {f"policy/nll_round_{number}": number.replace("_up", " and up") for number in ("0", "1", "2", "3_up")},
            ),
        ],
    ),
    Section(
        "Optimization and sampling",
        [
            Panel(
                "Likelihood ratio, new to old",
                "ratio",
                {s.RATIO_MAX: "largest", s.RATIO_P99: "99%", s.RATIO_MIN: "smallest"},
            ),
            Panel("Tokens whose ratio is clipped", "share", _family(s.CLIP_SHARE, "positive", "negative")),
            Panel("KL to the reference", "nats per token", {s.KL_REF: "KL"}),
            Panel("Gap between trainer and sampler", "nats", {s.GAP_MAX: "largest", s.GAP_MEAN: "mean"}),
        ],
    ),
)


def sections(logged: Collection[str]) -> list[Section]:
    """The sections with what the runs have logged; empty panels and sections are left out.

    Args:
        logged: Metric keys that any run has.
    """
    found = [Section(one.title, list(_with_data(one.panels, logged))) for one in _CHOSEN]
    return [one for one in found if one.panels]


def other_panels(logged: Collection[str]) -> list[Panel]:
    """Panels of every other signal of the vocabulary; those of one family share one.

    Args:
        logged: Metric keys that any run has.
    """
    shown = {name for section in _CHOSEN for panel in section.panels for name in panel.lines}
    shown.add(s.BACK_TO)  # a vertical line in all of them
    families: dict[tuple[str, str], list[s.Signal]] = {}
    for signal in s.SIGNALS:
        if signal.name in logged and signal.name not in shown:
            families.setdefault((_stem(signal.name), signal.unit), []).append(signal)
    return [_other(stem, unit, members) for (stem, unit), members in families.items()]


def _with_data(panels: Iterable[Panel], logged: Collection[str]) -> Iterable[Panel]:
    for panel in panels:
        lines = {name: label for name, label in panel.lines.items() if name in logged}
        if lines:
            yield Panel(panel.title, panel.unit, lines, panel.level)


def _other(stem: str, unit: str, members: list[s.Signal]) -> Panel:
    lines = {one.name: one.name.removeprefix(stem).strip("_").replace("_", " ") or "all" for one in members}
    about = "; ".join(f"{one.name}: {one.meaning}" for one in members)
    return Panel(members[0].name if len(members) == 1 else stem, "" if unit == "1" else unit, lines, about=about)


def _stem(name: str) -> str:
    """The name without what tells apart the members of its family."""
    shorter = _SHARED_AXIS.sub("", name)
    return name if shorter == name else _stem(shorter)

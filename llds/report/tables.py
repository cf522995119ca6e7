"""The tables of the report: the runs side by side, and where their configurations differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from llds.monitor import signals as s
from llds.report.curves import alarm_starts
from llds.report.run import Run

LAST = 10
"""Iterations that the last values are averages over."""
_NOT_SETTINGS = ("default_root_dir", "save_dir", "ckpt_path")


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        head: Titles of the columns.
        rows: Cells as text.
    """

    head: list[str]
    rows: list[list[str]]


def comparison(runs: Sequence[Run]) -> Table:
    """A column per run: how it went."""
    outcomes = [_outcome(run) for run in runs]
    return Table(["", *(run.name for run in runs)], [[key, *(one[key] for one in outcomes)] for key in outcomes[0]])


def _outcome(run: Run) -> dict[str, str]:
    rewards, likelihoods = run.series(s.REWARD)[1], run.series(s.LIKELIHOOD_CORRECT)[1]
    rates = run.series(s.LLD_RATE)[1]
    end = run.diagnoses[-1]
    return {
        "iterations": str(len(run.table.rows)),
        "reward, first iteration": _number(rewards[:1]),
        "reward, best iteration": _number([max(rewards)] if rewards else []),
        f"reward, mean of the last {LAST}": _number(rewards[-LAST:]),
        "likelihood of correct responses, first (nats per token)": _number(likelihoods[:1]),
        f"the same, mean of the last {LAST}": _number(likelihoods[-LAST:]),
        "correct actions that lost likelihood, mean of all iterations": _number(rates),
        f"the same, of the last {LAST}": _number(rates[-LAST:]),
        f"tool calls per question, mean of the last {LAST}": _number(run.series(s.TOOL_CALLS)[1][-LAST:]),
        "probe: questions that lose likelihood, last": _share(run),
        "alarms at iteration": ", ".join(map(str, alarm_starts(run.diagnoses))) or "none",
        "actions of the ladder": ", ".join(f"{one.iteration} ({one.action})" for one in run.incidents if one.has_acted)
        or "none",
        "phase at the end": run.phase,
        "cause": (end.cause or "-").replace("_", " "),
    }


def _share(run: Run) -> str:
    shares = [probe.record["share_negative"] for probe in run.probes if probe.record["share_negative"] is not None]
    return f"{shares[-1]:.0%}" if shares else "-"


def _number(values: Sequence[float]) -> str:
    return f"{fmean(values):.3f}" if values else "-"


def config_differences(runs: Sequence[Run]) -> Table:
    """The settings in which the runs differ, places on disk left out."""
    configured = [run for run in runs if run.config]
    keys = dict.fromkeys(key for run in configured for key in run.config)
    rows = []
    for key in keys:
        values = [_setting(run.config, key) for run in configured]
        if len(set(values)) > 1 and not key.endswith(_NOT_SETTINGS):
            rows.append([key, *values])
    return Table(["setting", *(run.name for run in configured)], rows)


def settings(run: Run) -> Table:
    """All settings of a run."""
    return Table(["setting", "value"], [[key, _setting(run.config, key)] for key in run.config])


def _setting(config: dict[str, Any], key: str) -> str:
    return str(config[key]) if key in config else "(not set)"

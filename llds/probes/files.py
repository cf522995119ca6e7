"""A probe on disk: everything as JSON, questions and actions as tables."""

import csv
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llds.files.atomic import write_atomically
from llds.probes.record import PLACES, Probe, ProbedAction, ProbedQuestion

PROBES = "probes"
"""Folder of the probes within a run's folder."""


def probe_folder(root: str | Path, iteration: int, label: str = "") -> Path:
    """Where the probe of an iteration belongs.

    Args:
        root: The run's folder.
        iteration: Iterations that the policy had been trained for.
        label: Tells apart several probes of one iteration.
    """
    return Path(root) / PROBES / f"iteration-{iteration:06d}{f'-{label}' if label else ''}"


def write_probe(probe: Probe, folder: Path) -> Path:
    """Write ``questions.csv``, ``actions.csv`` and, at last, ``probe.json``.

    Args:
        probe: What was found.
        folder: Made where it is missing; files of an older probe are replaced.

    Returns:
        The folder.
    """
    _write_table(folder / "questions.csv", (_question_row(question) for question in probe.questions))
    _write_table(
        folder / "actions.csv",
        (_action_row(question, action) for question in probe.questions for action in question.actions),
    )
    with write_atomically(folder / "probe.json") as file:
        file.write(json.dumps(probe_record(probe), ensure_ascii=False, indent=1) + "\n")
    return folder


def probe_record(probe: Probe) -> dict[str, Any]:
    """A probe as JSON-ready values: the summary first, then each question with its trajectories and actions."""
    return {
        "iteration": probe.iteration,
        "asked": probe.asked,
        "settings": probe.settings,
        "seconds": {phase: round(seconds, 3) for phase, seconds in probe.seconds.items()},
        "share_negative": probe.share_negative,
        "is_phase_iii": probe.is_phase_iii,
        "mean_change": probe.mean_change,
        "mean_change_by_place": {place: probe.mean_change_of(place) for place in PLACES},
        "share_negative_by_place": {place: probe.share_negative_of(place) for place in PLACES},
        "agreement_with_g": asdict(probe.agreement) if probe.agreement else None,
        "questions": [_question_record(question) for question in probe.questions],
    }


def _question_record(question: ProbedQuestion) -> dict[str, Any]:
    actions = [
        asdict(action)
        | {"g": action.g, "g_negative": question.negative_part(action), "g_positive": question.positive_part(action)}
        for action in question.actions
    ]
    return asdict(question) | {"change_per_token": question.change_per_token, "actions": actions}


def _question_row(question: ProbedQuestion) -> dict[str, Any]:
    return {
        "prompt_id": question.prompt_id,
        "question": question.question,
        "right": len(question.correct),
        "wrong": len(question.trajectories) - len(question.correct),
        "change_per_token": question.change_per_token,
        **{f"change_{place}": question.change_of(place) for place in PLACES},
        "grad_norm": question.grad_norm,
    }


def _action_row(question: ProbedQuestion, action: ProbedAction) -> dict[str, Any]:
    number, pull = question.strongest_pull(action) or (None, None)
    return {
        "prompt_id": question.prompt_id,
        "trajectory": action.trajectory,
        "turn": action.turn,
        "place": action.place,
        "tokens": action.tokens,
        "change": action.change,
        "g": action.g,
        "g_negative": question.negative_part(action),
        "g_positive": question.positive_part(action),
        "strongest_pull_by": number,
        "strongest_pull": pull,
        "text": action.text,
    }


def _write_table(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    listed = list(rows)
    with write_atomically(path) as file:
        writer = csv.DictWriter(file, list(listed[0]) if listed else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(listed)

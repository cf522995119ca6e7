"""An evaluation on disk: a folder of its own, there whole or not at all, and never overwritten.

``<run>/evaluation/<time>-<stage>-<policy>/`` holds ``card.json`` (conditions), ``results.json`` (numbers),
``questions.jsonl`` (one line per question, for paired tests) and ``table.md`` (a row for a paper).
"""

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llds.errors import DataError
from llds.evaluation.markdown import markdown_table
from llds.evaluation.question import QuestionResult
from llds.evaluation.summary import summarize

_FOLDER = "evaluation"
_CARD, _QUESTIONS = "card.json", "questions.jsonl"


@dataclass(frozen=True)
class EvaluationRecord:
    """An evaluation as it was read from disk.

    Attributes:
        folder: Where it lies.
        card: The conditions; what is no plain value in them, from a class of a user's, is written as its text.
        questions: What each question showed.
    """

    folder: Path
    card: dict[str, Any]
    questions: tuple[QuestionResult, ...]


def new_record_folder(root: Path, stage: str, policy: str, now: datetime | None = None) -> Path:
    """A path for a new record in a run's folder; two evaluations never get the same one.

    Args:
        root: The run's folder.
        stage: The command: ``test``, ``validate`` or ``predict``.
        policy: What was measured: the name of a checkpoint or a model folder.
        now: The time; None is now.
    """
    label = re.sub(r"[^A-Za-z0-9._-]+", "-", policy).strip("-.") or "policy"
    name = f"{(now or datetime.now(UTC)):%Y%m%d-%H%M%S}-{stage}-{label}"
    folder = root / _FOLDER / name
    number = 2
    while folder.exists():
        folder = root / _FOLDER / f"{name}-{number}"
        number += 1
    return folder


def write_record(folder: Path, card: Mapping[str, Any], questions: Sequence[QuestionResult]) -> None:
    """Write a record; its folder appears when everything is in it.

    Args:
        folder: From `new_record_folder`.
        card: The conditions.
        questions: What each question showed, at least one.

    Raises:
        DataError: If it cannot be written (no permission, disk full).
    """
    summary = summarize(questions)
    lines = "".join(json.dumps(asdict(question), ensure_ascii=False) + "\n" for question in questions)
    texts = {
        _CARD: json.dumps(card, indent=2, ensure_ascii=False, default=str) + "\n",
        "results.json": json.dumps(asdict(summary), indent=2, ensure_ascii=False) + "\n",
        _QUESTIONS: lines,
        "table.md": markdown_table(folder.name, summary),
    }
    partial = folder.with_name(f".partial-{folder.name}")
    try:
        partial.mkdir(parents=True)
        for name, text in texts.items():
            (partial / name).write_text(text, encoding="utf-8", errors="backslashreplace")
        os.rename(partial, folder)
    except OSError as error:
        raise DataError(f"Expected to write the results to {folder}, got {error}. Make room, or mend it.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def list_records(root: Path) -> list[Path]:
    """Folders of a run's evaluations, oldest first."""
    return sorted(card.parent for card in (root / _FOLDER).glob(f"[!.]*/{_CARD}") if _is_record(card.parent))


def read_record(path: Path) -> EvaluationRecord:
    """Read a record.

    Args:
        path: Folder of an evaluation, or of a run, whose latest evaluation is then read.

    Raises:
        DataError: If there is none, or a file of it is damaged.
    """
    if _is_record(path):
        folder = path
    elif records := list_records(path):
        folder = records[-1]
    else:
        found = "a folder without one" if path.is_dir() else "a file" if path.exists() else "nothing"
        raise DataError(
            f"Expected {path} to be the folder of a run that was tested, or of one of its evaluations, got {found}. "
            "Run llds test first; it writes RUN/evaluation/..."
        )
    card = _parse_object(_read(folder / _CARD), folder / _CARD)
    lines = _read(folder / _QUESTIONS).split("\n")  # not splitlines: an answer may hold another end of line
    questions = [
        _parse_question(line, f"{folder / _QUESTIONS}:{number}") for number, line in enumerate(lines, 1) if line
    ]
    if not questions:
        raise DataError(f"Expected questions in {folder / _QUESTIONS}, got an empty file. Run llds test again.")
    return EvaluationRecord(folder, card, tuple(questions))


def _is_record(folder: Path) -> bool:
    return (folder / _CARD).is_file() and (folder / _QUESTIONS).is_file()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Expected a text file at {path}, got {error}. Run llds test again.") from error


def _parse_object(text: str, place: Path | str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"Expected JSON at {place}, got {error}: the file is damaged. Run llds test again.") from error
    if not isinstance(value, dict):
        raise DataError(f"Expected a JSON object at {place}, got {text[:40]!r}. Run llds test again.")
    return value


def _parse_question(line: str, place: str) -> QuestionResult:
    value = _parse_object(line, place)
    missing = [field.name for field in fields(QuestionResult) if field.name not in value]
    if missing:
        raise DataError(f"Expected the result of a question at {place}, got one without {missing[0]!r}.")
    known = {field.name: value[field.name] for field in fields(QuestionResult)}
    return QuestionResult(**known | {"golden_answers": tuple(value["golden_answers"])})

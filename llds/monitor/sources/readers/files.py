"""Metrics files as records: CSV, JSON, jsonl, notebooks and console logs; ``.gz`` too."""

import csv
import io
import json
import zlib
from pathlib import Path
from typing import Any

from llds.errors import DataError
from llds.files.bounds import MAX_COLUMNS, read_bytes
from llds.files.formats import archive_of, is_packed
from llds.monitor.sources.readers.console import from_console
from llds.monitor.sources.readers.notebook import from_html, from_notebook
from llds.monitor.sources.vocabulary import Record

_HEADINGS = ("data", "metrics", "logs", "scalars", "values")
"""Keys whose objects hold the metrics of a row: ``data`` in verl's file logger."""
_TABLES = ("history", "log", *_HEADINGS)
"""Keys whose object may hold all rows, as columns."""
_MAX_BYTES = 256 << 20  # of metrics, unpacked


def read_records(path: Path) -> list[Record]:
    """The records of a file.

    Raises:
        DataError: If it cannot be read, or holds none.
    """
    try:
        content = read_bytes(path, _MAX_BYTES)
        if archive := archive_of(content):
            raise DataError(f"Expected metrics in {path}, got {archive}.")
        text = content.decode(_encoding(content), errors="replace")
        if path.name.endswith(".gz") and not is_packed(path):
            raise OSError("its name says gzip, and it is not packed")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"Expected a metrics file that can be read, got {path}: {error}.") from error
    name = path.name.removesuffix(".gz")
    if name.endswith((".csv", ".tsv")):
        records = _from_csv(text, path)
    elif name.endswith(".json"):
        records = _from_json(text, path)
    elif name.endswith((".jsonl", ".ndjson")):
        records = _from_lines(text, path)
    elif name.endswith(".ipynb"):
        records = from_notebook(text, path)
    elif name.endswith((".html", ".htm")):
        records = from_html(text)
    else:
        records = from_console(text)
    if not records:
        raise DataError(
            f"Expected metrics in {path}, got none. Known are CSV, TRL's trainer_state.json, jsonl with one object per "
            "iteration, notebooks, and what trainings print: lines of verl (`step:N - key:value - ...`), dictionaries "
            "(`{'loss': ..., 'reward': ...}`), tables with a column `Step`, the consoles of NeMo-RL, prime-rl, slime, "
            "OpenRLHF, AReaL and Megatron."
        )
    return records


def _encoding(content: bytes) -> str:
    """PowerShell redirects output as UTF-16."""
    return "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"


def _from_csv(text: str, path: Path) -> list[Record]:
    text = text.lstrip("\ufeff")
    head = text.partition("\n")[0]
    parts = max(",", ";", "\t", key=head.count)  # the first of those that come up as often
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=parts)
    try:
        if len(rows.fieldnames or ()) > MAX_COLUMNS:
            raise DataError(f"Expected at most {MAX_COLUMNS:,} columns in {path}, got {len(rows.fieldnames or ()):,}.")
        records: list[Record] = list(rows)
    except csv.Error as error:
        raise DataError(f"Expected a CSV file in {path}, got line {rows.line_num}: {error}.") from error
    for number, record in enumerate(records, start=1):
        if None in record:
            fields = len(rows.fieldnames or ())
            raise DataError(f"Expected {fields} fields in each row of {path}, got more in row {number}.")
    return records


def _from_json(text: str, path: Path) -> list[Record]:
    value = _parse(text, f"{path}")
    history = _history(value) if isinstance(value, dict) else value
    if not isinstance(history, list) or not all(isinstance(one, dict) for one in history):
        raise DataError(
            f"Expected {path} to be TRL's trainer_state.json (with `log_history`), a list of objects, or an object of "
            "lists of one length, got none of them."
        )
    return [_flat(one) for one in history if "train_runtime" not in one]  # the summary at the end of a TRL run


def _history(value: dict[str, Any]) -> Any:
    """The records in an object: its only list of objects, or its columns as rows."""
    if "log_history" in value:
        return value["log_history"]
    value = next((one for name, one in value.items() if name in _TABLES and isinstance(one, dict)), value)
    lists = {name: one for name, one in value.items() if isinstance(one, list) and one}
    tables = [one for one in lists.values() if all(isinstance(row, dict) for row in one)]
    if len(tables) == 1:
        return tables[0]
    lengths = {len(one) for one in lists.values()}
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)] if len(lengths) == 1 else 0


def _flat(record: dict[str, Any], depth: int = 3) -> dict[str, Any]:
    """The record with what is nested in it: by its own name under a mere heading, else by a path."""
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, dict) and depth:
            start = "" if name in _HEADINGS else f"{name}/"
            flat |= {f"{start}{inner}": one for inner, one in _flat(value, depth - 1).items()}
        else:
            flat[name] = value
    return flat


def _from_lines(text: str, path: Path) -> list[Record]:
    records: list[Record] = []
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if number == len(lines) and not text.endswith("\n") and not line.rstrip().endswith("}"):
            break  # a run that is being written, or was killed while it wrote
        record = _parse(line, f"{path}, line {number}")
        if not isinstance(record, dict):
            raise DataError(f"Expected one object per line, got {line[:40]!r} in {path}, line {number}.")
        if "config" not in record and "end" not in record:
            records.append(_flat(record))
    return records


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"Expected JSON in {where}, got: {error.msg} at character {error.pos}.") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; lists in lists in lists
        raise DataError(f"Expected JSON in {where}, got: {error}.") from error

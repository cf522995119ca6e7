"""Metrics files as records: CSV, JSON, jsonl, notebooks and console logs; ``.gz`` too."""

import csv
import io
import json
import zlib
from pathlib import Path
from typing import Any

from llds.errors import DataError
from llds.files.bounds import MAX_COLUMNS, read_bytes
from llds.files.formats import is_packed
from llds.monitor.sources.readers.console import from_console
from llds.monitor.sources.readers.notebook import from_html, from_notebook
from llds.monitor.sources.vocabulary import Record

_MAX_BYTES = 256 << 20  # of metrics, unpacked


def read_records(path: Path) -> list[Record]:
    """The records of a file.

    Raises:
        DataError: If it cannot be read, or holds none.
    """
    try:
        text = read_bytes(path, _MAX_BYTES).decode("utf-8", errors="replace")
        if path.name.endswith(".gz") and not is_packed(path):
            raise OSError("its name says gzip, and it is not packed")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"Expected a metrics file that can be read, got {path}: {error}.") from error
    name = path.name.removesuffix(".gz")
    if name.endswith(".csv"):
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
            "iteration, console logs of verl (lines with `step:N - key:value - ...`) and TRL (`{'loss': ..., 'reward': "
            "...}`), and notebooks with either or with a table of steps."
        )
    return records


def _from_csv(text: str, path: Path) -> list[Record]:
    rows = csv.DictReader(io.StringIO(text.lstrip("\ufeff"), newline=""))
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
    history = value.get("log_history") if isinstance(value, dict) else value
    if not isinstance(history, list) or not all(isinstance(one, dict) for one in history):
        raise DataError(
            f"Expected {path} to be TRL's trainer_state.json (with `log_history`) or a list of objects, got neither."
        )
    return [one for one in history if "train_runtime" not in one]  # the summary at the end of a TRL run


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
        if isinstance(record.get("data"), dict):  # verl's file logger
            record = {"step": record.get("step"), **record["data"]}
        if "config" not in record and "end" not in record:
            records.append(record)
    return records


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"Expected JSON in {where}, got: {error.msg} at character {error.pos}.") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; lists in lists in lists
        raise DataError(f"Expected JSON in {where}, got: {error}.") from error

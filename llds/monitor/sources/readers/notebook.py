"""Notebooks: what a training printed into one, as dictionaries or as the HTML table of transformers' progress bar."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from llds.errors import DataError
from llds.monitor.sources.readers.console import from_console
from llds.monitor.sources.readers.printed import table_records
from llds.monitor.sources.vocabulary import Record


def from_notebook(text: str, path: Path) -> list[Record]:
    """The records of a notebook's outputs; of several trainings the one with the most rows.

    Raises:
        DataError: If it is no notebook.
    """
    try:
        cells = json.loads(text)["cells"]
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        found = [_records(output) for output in outputs]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"Expected {path} to be a Jupyter notebook (JSON with `cells`), got: {error}.") from error
    return max(found, key=len, default=[])


def from_html(text: str) -> list[Record]:
    """The rows of the longest table of a page that has a column of steps."""
    reader = _Tables()
    reader.feed(text)
    tables = [table_records(table) for table in reader.tables]
    return max(tables, key=len, default=[])


def _records(output: dict[str, Any]) -> list[Record]:
    data = output.get("data", {})
    page = "".join(data.get("text/html", ""))
    return from_html(page) if page else from_console("".join(output.get("text", data.get("text/plain", ""))))


class _Tables(HTMLParser):
    """Cells of all tables as text."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self._is_cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr" and self.tables:
            self.tables[-1].append([])
        elif tag in ("td", "th") and self.tables and self.tables[-1]:
            self.tables[-1][-1].append("")
            self._is_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._is_cell = self._is_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._is_cell:
            self.tables[-1][-1][-1] += data.strip()

"""What web searches found, in an SQLite database, and how many requests were made for it."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from llds.errors import ConfigurationError

_WAIT_S = 30.0
"""For another process that writes."""


class WebCache:
    """Results by query; any number of processes of a machine may share one.

    Args:
        path: The file, made where it is missing; None keeps all in memory.
    """

    def __init__(self, path: str | None) -> None:
        self.path = path

    def read(self, key: str) -> list[Any] | None:
        """What was written for a key; None where nothing was."""
        with self._telling():
            row = self._database.execute("SELECT value FROM results WHERE key = ?", (key,)).fetchone()
            return None if row is None else list(json.loads(row[0]))

    def write(self, key: str, value: Sequence[Any]) -> None:
        """Keep a value."""
        with self._telling(), self._database:
            self._database.execute("INSERT OR REPLACE INTO results VALUES (?, ?)", (key, json.dumps(value)))

    def spend(self, budget: float) -> bool:
        """Count a request, unless as many were made as the budget allows; returns whether it may be made."""
        with self._telling(), self._database:
            counted = self._database.execute("UPDATE requests SET made = made + 1 WHERE made < ?", (budget,))
            return counted.rowcount == 1

    @property
    def requests(self) -> int:
        """Requests made so far."""
        with self._telling():
            return int(self._database.execute("SELECT made FROM requests").fetchone()[0])

    @cached_property
    def _database(self) -> sqlite3.Connection:
        """Opened at the first use, which is in the process and the thread that goes on with it."""
        if self.path is not None:
            Path(self.path).parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(self.path or ":memory:", timeout=_WAIT_S, check_same_thread=False)
        with database:
            database.execute("CREATE TABLE IF NOT EXISTS results (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
            database.execute("CREATE TABLE IF NOT EXISTS requests (one INTEGER PRIMARY KEY, made INTEGER NOT NULL)")
            database.execute("INSERT OR IGNORE INTO requests VALUES (1, 0)")
        return database

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, ValueError) as error:
            raise ConfigurationError(
                f"Expected `cache` of the web search tool to be a database of its own, got {self.path}: {error}. Name "
                "another file, or remove this one."
            ) from error

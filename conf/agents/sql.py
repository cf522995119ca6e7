"""An agent with state: a database for each trajectory. Copy this file, sql.yaml and shop.* to begin one of yours."""

import sqlite3
import time

from llds.paths import resolve_path

_DEADLINE_S = 2.0
_ROWS, _CHARS = 20, 1000


class SqlEnvironment:
    """A database in memory, made anew from a script for each trajectory.

    Args:
        script: File with the SQL that makes it.
    """

    def __init__(self, script: str) -> None:
        self._script = resolve_path(script).read_text()

    def reset(self) -> None:
        """Make the database."""
        self._database = sqlite3.connect(":memory:", check_same_thread=False)
        self._database.executescript(self._script)

    def tables(self) -> str:
        """Shows the tables and their columns."""
        return "\n".join(sql for (sql,) in self._database.execute("SELECT sql FROM sqlite_master WHERE type = 'table'"))

    def query(self, sql: str) -> str:
        """Runs one SQL statement and returns the rows, at most 20.

        Args:
            sql: The statement, in the dialect of SQLite.
        """
        ends = time.monotonic() + _DEADLINE_S
        self._database.set_progress_handler(lambda: time.monotonic() > ends, 10_000)
        try:
            rows = self._database.execute(sql).fetchmany(_ROWS + 1)
        except sqlite3.Error as error:
            raise ValueError(f"SQLite says: {error}") from error  # the model's mistake: it reads this
        lines = [", ".join(map(str, row)) for row in rows[:_ROWS]] + ["..."] * (len(rows) > _ROWS)
        return "\n".join(lines)[:_CHARS] or "No rows."

    def close(self) -> None:
        """Free it."""
        self._database.close()

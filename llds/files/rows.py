"""A row of a file, and what becomes of the rows that are malformed."""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from llds.errors import DataError

OnBadRow = Literal["error", "skip"]
"""What becomes of malformed rows: they stop the run, or are left out and counted."""

_NAMED = 10  # of them, in a message
_REPR_OF_ARRAY = re.compile(r"\s*\[?\s*(array\(\s*\[|(np|numpy)\.\w+\().*\)\s*\]?\s*", re.DOTALL)
_ARRAYS = ("array(", "np.", "numpy.")


class Row(NamedTuple):  # made in a quarter of the time of a dataclass; there are millions
    """One row of a file.

    Attributes:
        origin: ``file:row``, for messages.
        number: The row's number, counted from 1: in jsonl, csv and tsv the line, else the row.
        values: Its columns.
    """

    origin: str
    number: int
    values: Mapping[str, Any]


new_row: Callable[[Iterable[Any]], Row] = partial(tuple.__new__, Row)
"""`Row._make` in a third of the time: for values that are known to be as many as they must."""


class BadRows:
    """Takes the malformed rows of a file.

    Args:
        action: ``raise`` raises the first of them; ``error`` collects them, so that `check` raises all together;
            ``skip`` counts them.

    Attributes:
        count: Number of rows that were taken.
        named: What is wrong with the first of them.
    """

    def __init__(self, action: OnBadRow | Literal["raise"] = "raise") -> None:
        self.action = action
        self.count = 0
        self.named: list[DataError] = []

    @property
    def first(self) -> DataError | None:
        """What is wrong with the first row that was taken."""
        return self.named[0] if self.named else None

    def take(self, error: DataError) -> None:
        """Raise the error, or count it.

        Args:
            error: What is wrong with a row.

        Raises:
            DataError: The error, where the first is raised.
        """
        if self.action == "raise":
            raise error
        self.count += 1
        if len(self.named) < _NAMED:
            self.named.append(error)

    def check(self, path: str | Path, advice: str = "") -> None:
        """Raise one error that names what was collected, unless rows are skipped.

        Args:
            path: The file.
            advice: What to do about several of them; the last line.

        Raises:
            DataError: If there were malformed rows.
        """
        if self.action == "skip" or not self.named:
            return
        if self.count == 1:
            raise self.named[0]
        rest = [f"... and {self.count - len(self.named):,} more."] * (self.count > len(self.named))
        raise DataError(
            "\n  ".join(
                [f"Expected rows that can be used in {path}, got {self.count:,} that cannot:"]
                + [str(error) for error in self.named]
                + rest
                + [advice] * bool(advice)
            )
        )


def shorten(value: Any, length: int = 80) -> str:
    """A value as it appears in a message: on one line, printable, and not longer than needed.

    Args:
        value: Anything; bytes are shown as text.
        length: Number of characters that are shown.
    """
    if isinstance(value, bytes):
        value = value[: 4 * length].strip().decode("utf-8", "backslashreplace")
    if isinstance(value, str):
        value = value[: length + 1]  # a text of megabytes is not worth its repr
    text = ascii(value) if not isinstance(value, str) or not value.isprintable() else repr(value)
    return text if len(text) <= length + 2 else f"{text[:length]}..."


def reason(error: Exception) -> str:
    """What an error of a library says, as a part of a message: on one line, printable, and not too long.

    Args:
        error: The error.
    """
    text = " ".join(str(error).split())
    text = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text[:200])
    return text or type(error).__name__


def is_array_repr(text: str) -> bool:
    """Whether a text is what numpy writes for a list or a value, as a table of them becomes when it is saved as text.

    Args:
        text: The text.
    """
    start = text[:_NAMED]
    return any(name in start for name in _ARRAYS) and _REPR_OF_ARRAY.fullmatch(text) is not None


def is_unicode(text: str) -> bool:
    """Whether a text has whole characters only: Python's strings can hold half a surrogate pair, no file can.

    Args:
        text: The text.
    """
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

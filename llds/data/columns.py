"""Columns of a row: found by the configured name or by the usual ones, and refused where they hold something else.

Every refusal names the file, the row and the column. Knows nothing of what a column is for.
"""

from collections.abc import Sequence
from typing import Any

from llds.errors import DataError
from llds.files import Row
from llds.files.rows import is_unicode, shorten

_MISSING = object()
MAX_CHARS = 100_000  # no question is longer; a file that lost its line breaks is


def find_column(row: Row, field: str | None, key: str, usual: Sequence[str]) -> tuple[Any, str]:
    """Return the value and the name of a column that must be there.

    Args:
        row: The row.
        field: The column's name; None is the first of the usual ones that the row has.
        key: The setting that names the column.
        usual: Names that are usual for it.

    Raises:
        DataError: If there is no such column.
    """
    value, name = find_optional_column(row, field, key, usual)
    if name:
        return value, name
    raise _no_column(row, usual, key)


def find_optional_column(row: Row, field: str | None, key: str, usual: Sequence[str]) -> tuple[Any, str]:
    """Return the value and the name of a column; None and an empty name if it was not named and is not there.

    Args:
        row: The row.
        field: The column's name; None is the first of the usual ones that the row has.
        key: The setting that names the column.
        usual: Names that are usual for it.

    Raises:
        DataError: If a column was named and is not there.
    """
    for name in usual if field is None else (field,):
        value = _look_up(row.values, name)
        if value is not _MISSING and (field is not None or value is not None):
            return value, name
    if field is None:
        return None, ""
    raise _no_column(row, (field,), key)


def read_text(value: Any, row: Row, column: str, expected: str) -> str:
    """Return a value that must be text, without white space around it.

    Args:
        value: The value.
        row: Where it stands.
        column: Name of its column.
        expected: What was expected, in words.

    Raises:
        DataError: If it is something else, empty, unreasonably long, or holds what is no character.
    """
    text = value.strip() if isinstance(value, str) else ""
    if not text:
        raise refuse(row, column, expected, value)
    if len(value) > MAX_CHARS:
        raise refuse(row, column, f"{expected} of at most {MAX_CHARS:,} characters", value)
    if "\x00" in value or not is_unicode(value):  # half of a surrogate pair is what no tokenizer takes
        raise refuse(row, column, f"{expected} in valid Unicode without null characters", value)
    return text


def refuse(row: Row, column: str, expected: str, value: Any) -> DataError:
    """Return the error for a value that is not what was expected.

    Args:
        row: Where it stands.
        column: Name of its column.
        expected: What was expected, in words.
        value: What came.
    """
    return DataError(
        f"Expected {expected} in column `{column}`, got {shorten(value)} at {row.origin}. Correct or remove the row."
    )


def _look_up(values: Any, name: str) -> Any:
    if not isinstance(values, dict):  # as all that readers of files give
        return _MISSING
    if name in values:
        return values[name]
    first, dot, rest = name.partition(".")
    if dot and rest and first in values:
        return _look_up(values[first], rest)
    return _MISSING


def _no_column(row: Row, names: Sequence[str], key: str) -> DataError:
    if empty := next((name for name in names if _look_up(row.values, name) is None), None):
        return refuse(row, empty, "a value", None)
    wanted = " or ".join(f"`{name}`" for name in names)
    got = [f"`{shorten(name)[1:-1]}`" for name in list(row.values)[:20]] + ["..."] * (len(row.values) > 20)
    return DataError(
        f"Expected a value in column {wanted}, got a row with columns {', '.join(got) or 'none at all'} at "
        f"{row.origin}. Set `{key}` of the data source to the column's name, or complete the row."
    )

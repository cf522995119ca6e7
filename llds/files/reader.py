"""Reads a file of any known format as rows, one at a time, so that nothing holds a whole file that need not.

The lowest layer of everything that reads data. It knows formats and nothing of questions or passages. A malformed row
may be skipped; a file that is damaged is always an error, as nobody can say how much of it is missing.
"""

import zlib
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path

from llds.errors import DataError
from llds.files.bounds import check_is_file
from llds.files.formats import FileFormat, detect_format
from llds.files.formats.csv_rows import read_csv, read_tsv
from llds.files.formats.json_rows import read_json, read_jsonl
from llds.files.formats.parquet_rows import read_parquet
from llds.files.hub_data import data_files
from llds.files.rows import BadRows, Row, reason

_READERS: dict[FileFormat, Callable[[Path, BadRows], Iterator[Row]]] = {
    "jsonl": read_jsonl,
    "json": read_json,
    "csv": read_csv,
    "tsv": read_tsv,
    "parquet": read_parquet,
}


def read_rows(
    path: str | Path,
    limit: int | None = None,
    bad_rows: BadRows | None = None,
    file_format: FileFormat | None = None,
) -> Iterator[Row]:
    """Yield the rows of a file in order.

    Args:
        path: The file; ``llds:...`` for one inside the package; ``hf://datasets/...`` for what the hub has by name.
            Text may be packed with gzip.
        limit: Number of rows to read, from the first; None is all.
        bad_rows: Takes the rows that are malformed; None raises the first of them.
        file_format: The format; None finds it by the file's content and name.

    Raises:
        DataError: If the file is missing, has an unknown format or is damaged, or a row is malformed. Raised when the
            reader gets there.
    """
    files = data_files(path)
    rows = chain.from_iterable(_rows_of(file, bad_rows or BadRows(), file_format) for file in files)
    yield from islice(rows if len(files) == 1 else _numbered_on(rows), limit)


def _numbered_on(rows: Iterator[Row]) -> Iterator[Row]:
    """The rows of the parts of a split with numbers that no two of them share; where a row stands stays said."""
    for number, row in enumerate(rows, start=1):
        yield Row(row.origin, number, row.values)


def _rows_of(file: Path, bad_rows: BadRows, file_format: FileFormat | None) -> Iterator[Row]:
    number = 0
    try:
        check_is_file(file)
        for row in _READERS[file_format or detect_format(file)](file, bad_rows):
            number = row.number
            yield row
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"Expected readable bytes at {file}:{number + 1}, got {reason(error)}. Copy the file again, or correct its "
            "permissions."
        ) from error

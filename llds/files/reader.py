"""Reads a file of any known format as rows, one at a time, so that nothing holds a whole file that need not.

The lowest layer of everything that reads data. It knows formats and nothing of questions or passages. A malformed row
may be skipped; a file that is damaged is always an error, as nobody can say how much of it is missing.
"""

import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from llds.errors import DataError
from llds.files.bounds import check_is_file
from llds.files.csv_rows import read_csv, read_tsv
from llds.files.formats import FileFormat, detect_format
from llds.files.json_rows import read_json, read_jsonl
from llds.files.parquet_rows import read_parquet
from llds.files.rows import BadRows, Row, reason
from llds.paths import resolve_path

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
        path: The file; ``llds:...`` for one inside the package. Text may be packed with gzip.
        limit: Number of rows to read, from the first; None is all.
        bad_rows: Takes the rows that are malformed; None raises the first of them.
        file_format: The format; None finds it by the file's content and name.

    Raises:
        DataError: If the file is missing, has an unknown format or is damaged, or a row is malformed. Raised when the
            reader gets there.
    """
    file = resolve_path(path)
    number = 0
    try:
        check_is_file(file)
        rows = _READERS[file_format or detect_format(file)](file, bad_rows or BadRows())
        for row in islice(rows, limit):
            number = row.number
            yield row
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"Expected readable bytes at {file}:{number + 1}, got {reason(error)}. Copy the file again, or correct its "
            "permissions."
        ) from error

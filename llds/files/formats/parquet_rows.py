"""Parquet as rows of plain Python values."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llds.errors import DataError
from llds.files.bounds import MAX_COLUMNS
from llds.files.rows import BadRows, Row, reason

if TYPE_CHECKING:
    import pyarrow

_BATCH_ROWS = 1024


def read_parquet(file: Path, bad_rows: BadRows) -> Iterator[Row]:
    """Yield the rows of a parquet file.

    Args:
        file: The file.
        bad_rows: Takes the rows whose text is not UTF-8.
    """
    # Imported here: whoever reads other files does without it, and without numpy
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file) as parquet:
            if parquet.metadata.num_columns > MAX_COLUMNS:
                raise DataError(
                    f"Expected at most {MAX_COLUMNS:,} columns, got {parquet.metadata.num_columns:,} in {file}. "
                    "Leave out those that are not needed."
                )
            for batch in parquet.iter_batches(batch_size=_BATCH_ROWS):
                for offset in range(batch.num_rows):
                    number += 1
                    origin = f"{file}:{number}"
                    try:
                        values = _values(batch, offset)
                    except ValueError as error:  # pyarrow hands bytes that are no UTF-8 through to Python
                        bad_rows.take(
                            DataError(f"Expected readable values, got {reason(error)} at {origin}. Remove the row.")
                        )
                    else:
                        yield Row(origin, number, values)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:  # the last for names of columns
        raise DataError(
            f"Expected a parquet file, got {reason(error)} at {file}:{number + 1}. Copy or write the file again."
        ) from error


def _values(batch: "pyarrow.RecordBatch", offset: int) -> dict[str, Any]:
    return batch.slice(offset, 1).to_pylist()[0]

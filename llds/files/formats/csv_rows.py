"""Comma- and tab-separated values as rows, by the names in their header line."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from llds.errors import DataError
from llds.files.bounds import MAX_COLUMNS, read_lines
from llds.files.formats import open_bytes
from llds.files.rows import BadRows, Row, reason, shorten


def read_csv(file: Path, bad_rows: BadRows) -> Iterator[Row]:
    """Yield the rows of a csv file; a header without a comma is separated by semicolons or tabs, if it has such.

    Args:
        file: The file.
        bad_rows: Takes the rows that have more or fewer cells than the header.
    """
    with open_bytes(file) as stream:
        header = next(read_lines(stream, file), b"")
    return _read(file, bad_rows, next((one for one in ",;\t" if one.encode() in header), ","))


def read_tsv(file: Path, bad_rows: BadRows) -> Iterator[Row]:
    """Yield the rows of a tsv file.

    Args:
        file: The file.
        bad_rows: Takes the rows that have more or fewer cells than the header.
    """
    return _read(file, bad_rows, "\t")


def _read(file: Path, bad_rows: BadRows, delimiter: str) -> Iterator[Row]:
    with open_bytes(file) as lines:
        reader = csv.reader(_text(lines, file), delimiter=delimiter, strict=True)
        number = 1
        try:
            header = next((cells for cells in reader if cells), [])
            _check_header(header, file)
            number = reader.line_num + 1
            for cells in reader:
                origin = f"{file}:{number}"
                if len(cells) == len(header):
                    yield Row(origin, number, dict(zip(header, cells, strict=True)))
                elif cells:
                    bad_rows.take(
                        DataError(
                            f"Expected {len(header)} cells as in the header, got {len(cells)} at {origin}. "
                            "Correct or remove the row; quote cells that hold the separator."
                        )
                    )
                number = reader.line_num + 1
        except csv.Error as error:
            raise DataError(
                f"Expected separated values, got a row that cannot be read at {file}:{number} ({reason(error)}). "
                "Correct the file, or convert it to jsonl."
            ) from error


def _text(lines: BinaryIO, file: Path) -> Iterator[str]:
    for number, line in enumerate(read_lines(lines, file), start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"Expected UTF-8 text, got {shorten(line)} at {file}:{number} ({reason(error)}). Save it as UTF-8."
            ) from error


def _check_header(header: list[str], file: Path) -> None:
    if len(header) > MAX_COLUMNS:
        raise DataError(
            f"Expected at most {MAX_COLUMNS:,} columns, got {len(header):,} at {file}:1. Check the separator."
        )
    if len(set(header)) < len(header) or not all(name.strip() for name in header):
        raise DataError(
            f"Expected a header line with the names of the columns, each once, got {shorten(header)} at {file}:1. "
            "Correct the header."
        )

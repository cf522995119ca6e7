"""Which format a file has, by its first bytes; the name decides only what bytes cannot.

Public data sets are often named otherwise than they are (json lines in ``.json``, lists in ``.jsonl``, gzip that a
download has unpacked). Also the one place that knows what is no data at all: a pointer of Git LFS, a web page.
"""

import gzip
import re
from pathlib import Path
from typing import BinaryIO, Literal, cast

from llds.errors import DataError
from llds.files.rows import shorten

FileFormat = Literal["jsonl", "json", "csv", "tsv", "parquet"]
"""jsonl: one object per line; json: a list of objects; csv, tsv: with a header; parquet."""

_HEAD_BYTES = 4096
_GZIP = b"\x1f\x8b"
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
_ARCHIVES = {
    b"PK\x03\x04": "a zip archive: unpack it (a spreadsheet: save it as csv)",
    b"\x28\xb5\x2f\xfd": "a zstd archive: unpack it, or pack it with gzip",
    b"\xfd7zXZ": "an xz archive: unpack it, or pack it with gzip",
    b"BZh": "a bzip2 archive: unpack it, or pack it with gzip",
    b"7z\xbc\xaf": "a 7z archive: unpack it",
}
_FOREIGN = {  # the first bytes of what people put in the place of data, and what to do about it
    b"version https://git-lfs": "a pointer of Git LFS instead of the data: fetch the data with `git lfs pull`",
    b"<!doctype": "a web page: the download went wrong, fetch the file again",
    b"<html": "a web page: the download went wrong, fetch the file again",
    b"<?xml": "an XML document: convert it to jsonl",
    b"\xff\xfe": "UTF-16 text: save it as UTF-8",
    b"\xfe\xff": "UTF-16 text: save it as UTF-8",
    b"ARROW1": "an Arrow file: convert it to parquet",
    b"\x00": "null bytes: the file was not written to its end, copy it again",
    b"PAR1": "parquet inside of gzip: unpack it",  # plain parquet was found before
} | _ARCHIVES


def open_bytes(file: Path) -> BinaryIO:
    """Open a file for reading, through gzip if it is packed.

    Args:
        file: The file.
    """
    return cast(BinaryIO, gzip.open(file)) if is_packed(file) else file.open("rb")


def is_packed(file: Path) -> bool:
    """Whether a file begins as gzip does.

    Args:
        file: The file.
    """
    with file.open("rb") as raw:
        return raw.read(2) == _GZIP


def archive_of(head: bytes) -> str:
    """Which archive other than gzip a file is, and what to do about it; empty for none.

    Args:
        head: Its first bytes.
    """
    return next((found for start, found in _ARCHIVES.items() if head.startswith(start)), "")


def detect_format(file: Path) -> FileFormat:
    """Return the format of a file.

    Parquet is known by its first bytes, csv and tsv by the name. A text that begins with ``[`` is a list; one that
    begins with ``{`` is one object per line, or a single object that spans lines or is alone in a ``.json`` file.

    Args:
        file: The file.

    Raises:
        DataError: If it is something else.
    """
    with file.open("rb") as raw:
        if raw.read(4) == b"PAR1":
            return "parquet"
    with open_bytes(file) as stream:
        head = stream.read(_HEAD_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n")
    _refuse_foreign(head, file)
    name = file.name.lower().removesuffix(".gz")
    suffix = next((one for one in SUFFIXES if name.endswith(one)), "")
    if suffix in (".csv", ".tsv"):
        return cast(FileFormat, suffix[1:])
    if head.startswith(b"["):
        return "json"
    if head.startswith(b"{"):
        return "json" if _is_one_object(file, head, suffix) else "jsonl"
    if suffix == ".parquet" and head:
        raise DataError(f"Expected a parquet file, got {shorten(head)} at {file}:1. Copy or write the file again.")
    if not suffix and head:
        raise DataError(
            f"Expected jsonl, a json list, csv, tsv or parquet (each but parquet also in gzip), got {shorten(head)} "
            f"at {file}:1. Convert the file, name it by its format ({', '.join(SUFFIXES)}), or set `format`."
        )
    return "json" if suffix == ".json" else "jsonl"


def _is_one_object(file: Path, head: bytes, suffix: str) -> bool:
    """Whether an object spans several lines, or is the only one of a file that is named json."""
    if re.match(rb"\{[ \t]*\r?\n", head):
        return True
    if suffix != ".json":
        return False
    with open_bytes(file) as stream:
        has_text = is_over = False  # the first line, which may be longer than memory
        while part := stream.readline(_HEAD_BYTES):
            if is_over and part.strip():
                return False
            has_text = has_text or bool(part.strip())
            is_over = is_over or (has_text and part.endswith(b"\n"))
    return True


def _refuse_foreign(head: bytes, file: Path) -> None:
    lowered = head[:32].lower()
    for start, found in _FOREIGN.items():
        if head.startswith(start) or lowered.startswith(start):
            raise DataError(f"Expected a data file, got {found} ({file}:1).")

"""Checksums of files: SHA-256, by which manifests and evaluation cards name one, and CRC-32, which finds damage."""

import hashlib
import zlib
from pathlib import Path

from llds.errors import DataError
from llds.files.bounds import check_is_file
from llds.paths import resolve_path

_CHUNK = 1 << 22


def file_hash(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes, as ``sha256sum`` prints it.

    Args:
        path: The file; ``llds:...`` for one inside the package.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        if resolve_path(path).exists():
            check_is_file(resolve_path(path))  # a pipe has no end
        with resolve_path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"Expected a readable file at {path}, got {error}. Check the path.") from error


def file_crc(path: Path, count: int | None = None) -> int:
    """The CRC-32 of a file's bytes: against damage, not against malice, and twice as fast as SHA-256.

    Args:
        path: The file.
        count: How many of its first bytes; None is all.

    Raises:
        OSError: If it cannot be read.
    """
    crc, left = 0, path.stat().st_size if count is None else count
    with path.open("rb") as file:
        while left > 0 and (data := file.read(min(_CHUNK, left))):
            crc = zlib.crc32(data, crc)
            left -= len(data)
    return crc

"""The checksum by which manifests and evaluation cards name a file."""

import hashlib
from pathlib import Path

from llds.errors import DataError
from llds.files.bounds import check_is_file
from llds.paths import resolve_path


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

"""Checksums of files: SHA-256, by which manifests and evaluation cards name one; CRC-32, which finds damage."""

import hashlib
import json
import zlib
from pathlib import Path

from llds.errors import DataError
from llds.files.bounds import check_is_file
from llds.files.hub_data import data_files

_CHUNK = 1 << 22
MANIFEST = "checksums.json"
"""A folder's list of the checksums of its files, by which damage is found when it is read again."""


def file_hash(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes, as ``sha256sum`` prints it; of the parts of a split, that of their hashes.

    Args:
        path: The file; ``llds:...`` for one inside the package; ``hf://datasets/...`` for what the hub has by name.

    Raises:
        DataError: If it cannot be read.
    """
    hashes = [_hash_of(file) for file in data_files(path)]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _hash_of(path: Path) -> str:
    try:
        if path.exists():
            check_is_file(path)  # a pipe has no end
        with path.open("rb") as file:
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


def write_manifest(folder: Path) -> None:
    """Write the list into the folder.

    Raises:
        OSError: If it cannot be written.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
    values = {path.name: f"{file_crc(path):08x}" for path in files}
    (folder / MANIFEST).write_text(json.dumps({"crc32": values}, indent=1) + "\n")


def damage_of_folder(folder: Path) -> str:
    """What is wrong with a folder by its list; empty if nothing is, or if it has none. Reads all files of the list.

    Raises:
        OSError: If one cannot be read.
    """
    if not (folder / MANIFEST).is_file():
        return ""
    try:
        listed = dict(json.loads((folder / MANIFEST).read_text())["crc32"])
    except (ValueError, KeyError, TypeError) as error:
        return f"its {MANIFEST} is damaged ({error})"
    for name, expected in listed.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if f"{file_crc(folder / name):08x}" != expected:
            return f"{name} is not as it was written, by its checksum"
    return ""

"""Checkpoint files that carry a checksum of themselves.

torch writes zip archives and does not look at their checksums when it reads them: a flipped bit loads as another
weight. A sealed file is such an archive with the CRC-32 of all its bytes as the archive's comment, taken while it is
written. It stays one file that plain torch loads. Without a seal, the checksums of an archive's records are compared.
"""

import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from llds.errors import CheckpointError
from llds.files.checksum import file_crc

_MARK = b"llds crc32 "
_COMMENT_BYTES = len(_MARK) + 8
_LENGTH_BYTES = 2  # of a zip archive's comment: its last field


class SealedFile:
    """What ``torch.save`` writes into: a file, and the checksum of what went into it.

    Attributes:
        crc: Of the bytes so far.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._error: OSError | None = None
        self.crc = 0

    def write(self, data: Any) -> int:
        """Write bytes.

        Raises:
            OSError: If they cannot be written; torch goes on to close its archive and would hide the first error.
        """
        if self._error is not None:
            raise self._error
        try:
            self._file.write(data)
        except OSError as error:
            self._error = error
            raise
        self.crc = zlib.crc32(data, self.crc)
        return len(data)

    def flush(self) -> None:
        """Do nothing: the file is forced to disk once, at the end."""

    def seal(self) -> None:
        """Make the checksum the comment of the archive, which must be complete."""
        if self._error is not None:
            raise self._error
        self._file.seek(-_LENGTH_BYTES, os.SEEK_END)
        self._file.write(_COMMENT_BYTES.to_bytes(_LENGTH_BYTES, "little") + _MARK + f"{self.crc:08x}".encode())


@contextmanager
def write_sealed(path: Path) -> Iterator[SealedFile]:
    """Open a file for ``torch.save`` that takes its name when it is complete, sealed and on disk.

    Args:
        path: Where it goes, straight into its folder; a file of that name stays until then, and if anything fails.

    Raises:
        OSError: If it cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("w+b") as file:
            sealed = SealedFile(file)
            try:
                yield sealed
            except RuntimeError:  # torch's own word for what `write` has raised
                sealed.seal()  # raises the cause
                raise
            sealed.seal()
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def damage_of(path: Path) -> str:
    """What is wrong with a file that torch wrote, by its checksum; empty if nothing is. Reads all of it once.

    A file that did not change since it was found whole is not read again.

    Raises:
        OSError: If it cannot be read.
    """
    status = path.stat()
    return _damage_of(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=32)
def _damage_of(path: Path, size: int, changed_at: int) -> str:
    tail = _tail(path, _LENGTH_BYTES + _COMMENT_BYTES)
    if tail.startswith(_COMMENT_BYTES.to_bytes(_LENGTH_BYTES, "little") + _MARK):
        expected = tail[-8:].decode("ascii", "replace")
        covered = size - _COMMENT_BYTES - _LENGTH_BYTES
        found = zlib.crc32(bytes(_LENGTH_BYTES), file_crc(path, covered))  # the seal covers the archive without comment
        return "" if f"{found:08x}" == expected else f"its checksum is {found:08x}, not {expected} as it was written"
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.comment:
                return "its seal is damaged"
            record = archive.testzip()
    except OSError:
        raise
    except Exception as error:  # a damaged archive raises whatever its bytes lead to
        return f"its archive is damaged ({error})"
    return "" if record is None else f"the checksum of its record {record} is another"


def _tail(path: Path, count: int) -> bytes:
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(-min(count, file.tell()), os.SEEK_END)
        return file.read()


def parts_of(checkpoint: Path) -> list[Path]:
    """The files of a checkpoint: it is one, or a folder to which every rank has written some."""
    return sorted(checkpoint.rglob("*.pt")) if checkpoint.is_dir() else [checkpoint]


def check_whole(checkpoint: Path, share: tuple[int, int] = (0, 1)) -> None:
    """Refuse a damaged checkpoint.

    Args:
        checkpoint: A file, or a folder.
        share: (number, shares): only every `shares`-th file of a folder is looked at.

    Raises:
        CheckpointError: Saying what is wrong, and which older checkpoint beside it to use.
    """
    number, shares = share
    for part in parts_of(checkpoint)[number::shares]:
        if found := damage_of(part):
            where = "" if part == checkpoint else f"in {part.name}, "
            raise CheckpointError(_sentence(checkpoint, where + found))


def _sentence(path: Path, found: str) -> str:
    """On a damaged checkpoint, with the next older one beside it that is whole."""
    older = [one for one in sorted(path.parent.glob(f"*{path.suffix}"), reverse=True) if one.name < path.name]
    whole = next((one for one in older if not _damage(one)), None)
    advice = "There is no older one beside it: take a copy, or start again."
    if whole is not None:
        advice = f"Use the next older one: --ckpt_path {whole} (or remove the damaged one, and use --ckpt_path last)."
    return f"Expected `ckpt_path` to be a whole checkpoint, got {path}, which is damaged: {found}. {advice}"


def _damage(path: Path) -> str:
    try:
        return next((found for part in parts_of(path) if (found := damage_of(part))), "")
    except OSError as error:
        return str(error)

"""A folder that is either a whole index or not there, whatever was killed while it was built.

An index is built in a folder beside its place and renamed into it when its manifest, written last, is complete. A
lock lets one process build while the others wait. Used by every retriever that keeps an index on disk; knows nothing
of what is in it. POSIX only (``flock``), as everything that trains here is.
"""

import fcntl
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llds.errors import RetrievalError

MANIFEST_NAME = "manifest.json"
_FORMAT = 1
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class IndexManifest:
    """What an index was built from and what it must hold.

    Attributes:
        settings: What decides the index (corpus, embedder, dimension, ...): must equal what is configured now.
        rows: Number of passages.
        probes: Ids of passages that must find themselves.
        file_bytes: Size of each file that never changes after the build, by its path in the folder.
    """

    settings: dict[str, Any]
    rows: int
    probes: list[str]
    file_bytes: dict[str, int]

    def write(self, folder: Path) -> None:
        """Write ``manifest.json``: whole or not at all."""
        part = folder / f"{MANIFEST_NAME}.part"
        with part.open("w", encoding="utf-8") as file:
            json.dump({"format": _FORMAT, **asdict(self)}, file, indent=1, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        part.replace(folder / MANIFEST_NAME)

    def verify(self, folder: Path, settings: dict[str, Any]) -> None:
        """Refuse an index that was built from something else, or that lost files.

        Raises:
            RetrievalError: With what differs and what to do.
        """
        for key in sorted(self.settings.keys() | settings.keys()):
            if self.settings.get(key) != settings.get(key):
                raise RetrievalError(
                    f"Expected an index with {key} {settings.get(key)!r}, as configured, got one with "
                    f"{self.settings.get(key)!r} in {folder}. {way_out(folder)}"
                )
        for name, size in self.file_bytes.items():
            got = (folder / name).stat().st_size if (folder / name).is_file() else None
            if got != size:
                raise RetrievalError(
                    f"Expected {folder / name} with {size:,} bytes, got "
                    f"{'no such file' if got is None else f'{got:,} bytes'}: the index is damaged and would answer "
                    f"wrongly. {way_out(folder)}"
                )


def read_manifest(folder: Path) -> IndexManifest | None:
    """Return the manifest of an index, None where there is no index yet (no folder, or an empty one).

    Raises:
        RetrievalError: The folder holds something else, or a manifest that cannot be read.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    try:
        fields = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))
        if fields.pop("format") != _FORMAT:
            raise ValueError("written by another version")
        return IndexManifest(**fields)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RetrievalError(
            f"Expected an index in {folder}, got a folder without a {MANIFEST_NAME} that can be read ({error}). "
            f"Nothing was changed. {way_out(folder)}"
        ) from error


@contextmanager
def index_lock(folder: Path) -> Iterator[None]:
    """Hold the index for this process; others wait. Given up by the system when the process dies.

    Raises:
        RetrievalError: The parent folder cannot be made or written.
    """
    path = folder.parent / f".{folder.name}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise RetrievalError(
            f"Expected a folder that can be written for the index, got {folder.parent} ({error}). Set another `path`."
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.info("Another process opens or builds the index in %s: waiting for it.", folder)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def index_build(folder: Path) -> Iterator[Path]:
    """Yield a folder to build in, which becomes ``folder`` if the block succeeds. Call it under `index_lock`.

    What killed builds left behind is removed first.
    """
    prefix = f".{folder.name}.building-"
    for leftover in folder.parent.glob(f"{prefix}*"):
        _log.warning("Removing %s, left behind by a build that was killed.", leftover)
        shutil.rmtree(leftover)
    workplace = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        yield workplace
        workplace.chmod(0o755)  # mkdtemp's 0o700 would lock out the other users of a shared index
        workplace.rename(folder)
    finally:
        if workplace.exists():
            shutil.rmtree(workplace)


def way_out(folder: Path) -> str:
    """What a user can do about an index that cannot be used; ends error messages."""
    return f"Delete {folder} to build the index anew, or set another `path`."

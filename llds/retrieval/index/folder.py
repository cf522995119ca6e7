"""An index in a folder that is either whole or not there, whatever was killed while it was built.

It is built in a folder beside its place and renamed into it when its manifest, written last, is complete. A lock lets
one process build while the others wait.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from llds.errors import RetrievalError
from llds.retrieval.index.chroma import ChromaDatabase, connect_folder
from llds.retrieval.index.manifest import IndexManifest
from llds.retrieval.index.place import IndexPlace
from llds.retrieval.index.size import IndexSize, check_disk, check_memory, free_disk, written_bytes

MANIFEST_NAME = "manifest.json"
_SQLITE = "*.sqlite3*"  # with its journal
_FULL_DISK_BYTES = 16 << 20
"""Less than a batch may need; SQLite and the graph fail with messages of their own, of which few say so."""
_log = logging.getLogger(__name__)


class IndexFolder(IndexPlace):
    """An index in a folder of its own.

    Args:
        path: The folder; made when the index is built.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.name = f"the index {self.path}"
        self.way_out = f"Delete {self.path} to build the index anew, or set another `path`."
        self._workplace = self.path.parent / f".{self.path.name}.building"

    def lock(self) -> AbstractContextManager[None]:
        """Hold the folder; see `IndexPlace.lock`. Where nobody here can write, a finished index needs no lock.

        Raises:
            RetrievalError: The parent folder cannot be made or written, and there is no index to read.
        """
        if (self.path / MANIFEST_NAME).is_file() and not _can_write(self.path.parent):
            return nullcontext()
        return file_lock(self.path.parent / f".{self.path.name}.lock", self.name)

    def connect(self) -> AbstractContextManager[ChromaDatabase]:
        """Open the database in the folder; in one that cannot be written, a copy of what Chroma must write to."""
        if _can_write(self.path):
            return connect_folder(self.path, self.name, self.way_out)
        return self._connect_to_copy()

    @contextmanager
    def _connect_to_copy(self) -> Iterator[ChromaDatabase]:
        """Chroma opens no database for reading only: its SQLite file is copied, the files of the graph are linked."""
        with tempfile.TemporaryDirectory(prefix="llds-index-") as name:
            copy = Path(name)
            texts = sum(_file_bytes(self.path, _SQLITE).values())
            _log.info("%s cannot be written: %s of it are copied to %s.", self.name, written_bytes(texts), copy)
            try:
                for one in self.path.iterdir():
                    if one.match(_SQLITE):
                        shutil.copyfile(one, copy / one.name)
                    else:
                        (copy / one.name).symlink_to(one)
            except OSError as error:
                raise RetrievalError(
                    f"Expected to copy {written_bytes(texts)} of {self.name} to {copy}, as it cannot be written, got "
                    f"{error}. Make room there, or set TMPDIR to a folder with more."
                ) from error
            with connect_folder(copy, self.name, self.way_out) as database:
                yield database

    def read_manifest(self) -> IndexManifest | None:
        """Return the manifest, None where there is no folder or an empty one.

        Raises:
            RetrievalError: The folder holds something else, or a manifest that cannot be read.
        """
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return None
        try:
            return IndexManifest.from_json((self.path / MANIFEST_NAME).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RetrievalError(
                f"Expected an index in {self.path}, got a folder without a {MANIFEST_NAME} that can be read ({error}). "
                f"Nothing was changed. {self.way_out}"
            ) from error

    def verify_files(self, manifest: IndexManifest) -> None:
        """Refuse an index that lost files: Chroma would count right and answer wrongly.

        Raises:
            RetrievalError: With the file and what to do.
        """
        for name, size in manifest.file_bytes.items():
            got = (self.path / name).stat().st_size if (self.path / name).is_file() else None
            if got != size:
                raise RetrievalError(
                    f"Expected {self.path / name} with {size:,} bytes, got "
                    f"{'no such file' if got is None else f'{got:,} bytes'}: the index is damaged and would answer "
                    f"wrongly. {self.way_out}"
                )

    def check_room(self, size: IndexSize, report: Callable[[str], None]) -> None:
        """See `IndexPlace.check_room`; what a killed build wrote counts as room."""
        check_disk(size, self.path.parent, sum(_file_bytes(self._workplace, "**/*").values()), report)
        check_memory(size.build_memory, "building the index", report)

    def build(self, fill: Callable[[ChromaDatabase], IndexManifest]) -> None:
        """See `IndexPlace.build`. Call it under `lock`."""
        try:
            with connect_folder(self._workplace, f"the half-built index {self._workplace}", self._advice()) as database:
                manifest = fill(database)
        except RetrievalError as error:
            free = free_disk(self.path.parent)
            if free > _FULL_DISK_BYTES:
                raise
            raise RetrievalError(
                f"Expected room for the index in {self.path.parent}, got a full disk ({free:,} bytes are free). "
                f"{self._advice()}"
            ) from error
        # HNSW files lie in one folder per collection; the SQLite file may change when it is read.
        self._publish(replace(manifest, file_bytes=_file_bytes(self._workplace, "*/*")))

    def build_files(self, fill: Callable[[Path], IndexManifest]) -> None:
        """Build an index that is no Chroma database, from the beginning. Call it under `lock`.

        Args:
            fill: Writes the files into the folder that it is given; returns the manifest, without their sizes.

        Raises:
            RetrievalError: They cannot be written.
        """
        try:
            if self._workplace.exists():
                shutil.rmtree(self._workplace)
            self._workplace.mkdir()
            manifest = fill(self._workplace)
        except OSError as error:
            raise RetrievalError(f"Expected to write {self._workplace}, got {error}. Make room on the disk.") from error
        self._publish(replace(manifest, file_bytes=_file_bytes(self._workplace, "*")))

    def _publish(self, manifest: IndexManifest) -> None:
        try:
            _write(self._workplace / MANIFEST_NAME, manifest.to_json())
            self._workplace.rename(self.path)
        except OSError as error:
            raise RetrievalError(f"Expected to write {self.path}, got {error}. {self._advice()}") from error

    def remove(self) -> None:
        """Delete the folder and what killed builds left, if they hold an index of llds or nothing.

        Raises:
            RetrievalError: The folder holds something else, such as a Chroma database of another program.
        """
        if self.path.exists() and any(self.path.iterdir()) and not (self.path / MANIFEST_NAME).is_file():
            raise RetrievalError(
                f"Expected an index in {self.path}, got another folder (without {MANIFEST_NAME}). Nothing was deleted."
            )
        for folder in (self.path, self._workplace):
            if folder.exists():
                shutil.rmtree(folder)

    def _advice(self) -> str:
        return (
            "Make room on the disk, or mend what is named, and start again: it goes on where it stopped. To give it "
            f"up, delete {self._workplace}."
        )


@contextmanager
def file_lock(path: Path, name: str) -> Iterator[None]:
    """Hold a lock among the processes of this machine; others wait. Given up by the system when the process dies.

    Args:
        path: The file to lock; stays behind, empty.
        name: What is locked, for messages.

    Raises:
        RetrievalError: The file cannot be made, or the disk knows no locks.
    """
    lock = FileLock(path, fallback_to_soft=False)  # a soft one would outlive its process
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _log.info("Another process opens or builds %s: waiting for it.", name)
            lock.acquire()
    except (OSError, NotImplementedError) as error:
        raise RetrievalError(
            f"Expected a folder that can be written for {name}, and locked, got {path.parent} ({error}). Set another "
            "`path`."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _can_write(folder: Path) -> bool:
    return os.access(folder, os.W_OK)


def _write(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _file_bytes(folder: Path, pattern: str) -> dict[str, int]:
    files = [file for file in sorted(folder.glob(pattern)) if file.is_file()]
    return {str(file.relative_to(folder)): file.stat().st_size for file in files}

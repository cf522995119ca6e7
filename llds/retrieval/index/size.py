"""How much memory and disk an index takes, told before it is built, and what this machine has.

The figures per row are those of Chroma 1.5 (HNSW in hnswlib, texts in SQLite), fitted to builds of 10,000 to 311,000
passages by ``tools/bench/retrieval/index_growth.py``; they hold within about a fifth.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from llds.errors import RetrievalError

_log = logging.getLogger(__name__)

_MIB = 1 << 20
_LINK_BYTES = 4
_LABEL_BYTES = 12
_ROW_TABLE_BYTES = 400
_TEXT_COPIES = 2.2
_PROCESS_BYTES = 300 * _MIB
_ID_MEMORY_BYTES = 400
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class IndexSize:
    """What an index needs, in bytes.

    Attributes:
        disk: Largest size of its files while it is built.
        build_memory: Memory of the process that builds it.
        search_memory: Memory of a process (or server) that searches it.
    """

    disk: int
    build_memory: int
    search_memory: int


def index_size(
    rows: int, text_bytes: int, dimension: int, max_neighbors: int, unsynced_rows: int, is_exact: bool
) -> IndexSize:
    """Return what an index will need.

    Args:
        rows: Number of passages.
        text_bytes: UTF-8 bytes of ids, titles and texts.
        dimension: Length of a vector.
        max_neighbors: HNSW links per passage.
        unsynced_rows: Rows whose vectors lie in SQLite, too, until they are synced to the graph's files.
        is_exact: Whether it is searched exactly, from vectors in memory.
    """
    vector = 4 * dimension
    graph_row = vector + 2 * max_neighbors * _LINK_BYTES + _LABEL_BYTES
    text_row = text_bytes / rows
    tables = rows * (_TEXT_COPIES * text_row + _ROW_TABLE_BYTES) + unsynced_rows * (vector + text_row)
    # hnswlib grows its arrays by a fifth at a time and copies them.
    build_memory = rows * (graph_row * 2.2 + _ID_MEMORY_BYTES)
    search_memory = rows * (vector + 100 if is_exact else graph_row + _ID_MEMORY_BYTES)
    return IndexSize(
        disk=int(rows * (graph_row + 40) + tables),
        build_memory=int(_PROCESS_BYTES + build_memory),
        search_memory=int(_PROCESS_BYTES + search_memory),
    )


@dataclass(frozen=True)
class Memory:
    """Memory of this machine, or of its container, in bytes.

    Attributes:
        total: All of it, with swap.
        available: What is free or can be freed.
    """

    total: int
    available: int


def read_memory() -> Memory:
    """Return the memory that this process can use; a container's limit counts."""
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    total, available = memory.total + swap.total, memory.available + swap.free
    limit, used = _read_number(_CGROUP / "memory.max"), _read_number(_CGROUP / "memory.current")
    if limit is not None and used is not None:
        total, available = min(total, limit), min(available, limit - used)
    return Memory(total, available)


def check_memory(needed: int, what: str, report: Callable[[str], None]) -> None:
    """Compare what something needs with what this machine has.

    Args:
        needed: Bytes of memory.
        what: What needs them, for messages.
        report: Takes what there is to say.

    Raises:
        RetrievalError: The machine has less than that in all: it would be killed or never end.
    """
    memory = read_memory()
    report(f"Memory: {what} will need {written_bytes(needed)}; {written_bytes(memory.available)} are available.")
    if needed > memory.total:
        raise RetrievalError(
            f"Expected {written_bytes(needed)} of memory for {what}, got a machine (or container) with "
            f"{written_bytes(memory.total)}. Use a larger machine, a Chroma server on one (`retriever.server`), an "
            "embedder of smaller dimension, or fewer passages."
        )
    if needed > memory.available:
        _log.warning(
            "%s needs %s of memory, and %s are available now. Close other programs, or it may be killed.",
            what[:1].upper() + what[1:],
            written_bytes(needed),
            written_bytes(memory.available),
        )


def check_disk(size: IndexSize, folder: Path, written: int, report: Callable[[str], None]) -> None:
    """Compare the disk that an index needs with what is free.

    Args:
        size: What the index needs.
        folder: Where it goes.
        written: Bytes of it that are there already.
        report: Takes what there is to say.

    Raises:
        RetrievalError: It does not fit.
    """
    free, needed = free_disk(folder), max(0, size.disk - written)
    report(f"Disk: the index will need {written_bytes(needed)} more in {folder}; {written_bytes(free)} are free.")
    if needed > free:
        raise RetrievalError(
            f"Expected {written_bytes(needed)} of free disk in {folder} for the index, got {written_bytes(free)}. "
            "Make room, or set another `path`."
        )


def free_disk(folder: Path) -> int:
    """Return the bytes that a user may still write in a folder, or where it will be made."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    statistics = os.statvfs(there)
    return statistics.f_bavail * statistics.f_frsize


def written_bytes(count: int) -> str:
    """Return a number of bytes as a person reads it."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{max(1, count >> 20):,} MiB"


def _read_number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no such limit here, or "max"
        return None

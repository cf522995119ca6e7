"""The folder of a run's checkpoints: their names, and a new one put in its place when it is whole."""

import os
import shutil
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

_FOLDER = "checkpoints"
_PATTERN = "iteration-*.ckpt"
_PARTIAL = ".partial.ckpt"
_REPLACED = ".replaced.ckpt"


def checkpoint_path(root: str | Path, iteration: int) -> Path:
    """Where the checkpoint of an iteration is."""
    return Path(root) / _FOLDER / f"iteration-{iteration:06d}.ckpt"


def list_checkpoints(root: str | Path) -> list[Path]:
    """Checkpoints of a run's folder, oldest first."""
    return sorted((Path(root) / _FOLDER).glob(_PATTERN))


def partial_path(root: str | Path) -> Path:
    """Where a checkpoint is written before it takes its name."""
    return Path(root) / _FOLDER / _PARTIAL


def clear_partial(root: str | Path) -> None:
    """Remove what a save that failed, or a process that was killed in one, has left.

    The folder is made where it is missing; not so the run's own, which may be on a disk that is no longer there.

    Raises:
        OSError: If that cannot be done.
    """
    (Path(root) / _FOLDER).mkdir(exist_ok=True)
    for name in (_PARTIAL, f"{_PARTIAL}.part", _REPLACED):
        remove(Path(root) / _FOLDER / name)


def publish(root: str | Path, path: Path) -> None:
    """Force what was written to disk and give it its name.

    Args:
        root: The run's folder.
        path: The name; a checkpoint that has it is replaced.
    """
    partial = partial_path(root)
    flush_all(partial)
    if path.is_dir():  # unlike a file, a folder cannot be replaced by another
        path.replace(path.with_name(_REPLACED))
    partial.replace(path)
    _flush(path.parent)


def remove_old(root: str | Path, keep_last: int, needed: Collection[Path]) -> None:
    """Remove all but the newest checkpoints and those that are needed; what cannot be removed stays.

    Args:
        root: The run's folder.
        keep_last: Number of the newest.
        needed: Others to keep.
    """
    for old in list_checkpoints(root)[:-keep_last]:
        if old not in needed:
            with suppress(OSError):
                remove(old)
    with suppress(OSError):
        remove(Path(root) / _FOLDER / _REPLACED)


def remove(path: Path) -> None:
    """Remove a checkpoint, which is a file, or a folder where the ranks save parts of it."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def flush_all(path: Path) -> None:
    """Force a file, or a folder with all that is in it, to disk."""
    for written in path.rglob("*"):
        _flush(written)
    _flush(path)


def _flush(path: Path) -> None:
    """Force a file, or the names in a folder, to disk: no power cut leaves a checkpoint that is there but empty."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

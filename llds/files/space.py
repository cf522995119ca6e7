"""Whether there is room on a disk, before something large is written."""

import errno
import os
from pathlib import Path

_MARGIN = 1 << 20
"""Bytes that anything takes besides its content."""


def check_room(folder: Path, needed: int) -> None:
    """Refuse to begin a file that the disk has no room for.

    Args:
        folder: Where it will be.
        needed: Its bytes.

    Raises:
        OSError: If there is less room, or no folder.
    """
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    if free < needed + _MARGIN:
        raise OSError(errno.ENOSPC, f"it needs {_size(needed)}, and {_size(free)} are free", str(folder))


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"

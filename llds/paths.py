"""Paths in configuration files: an ordinary path, or `llds:...` for a file that ships inside the package."""

from importlib.resources import files
from pathlib import Path

PACKAGE_PREFIX = "llds:"


def resolve_path(path: str | Path) -> Path:
    """Return the path on disk.

    Args:
        path: A path relative to the working directory, an absolute path (``~`` is expanded), or
            ``llds:quickstart/corpus.jsonl`` for a file inside the installed package.
    """
    text = str(path)
    if text.startswith(PACKAGE_PREFIX):
        return Path(str(files("llds"))) / text.removeprefix(PACKAGE_PREFIX)
    return Path(text).expanduser()

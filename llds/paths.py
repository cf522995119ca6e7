"""Paths in configuration files: an ordinary path, or `llds:PATH` for a file that ships inside the package.

What ships is the quickstart (`llds:quickstart/...`) and the configurations (`llds:conf/...`, the folder `conf/` of the
repository). After ``-c``, where only a configuration makes sense, its name is enough: ``-c llds:quickstart``.
"""

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
        return _package() / text.removeprefix(PACKAGE_PREFIX)
    return Path(text).expanduser()


def lasting_path(path: Path) -> str:
    """Return the path in words that mean the same from any folder: `llds:...` inside the package, else absolute."""
    file = path.absolute()
    if file.is_relative_to(_package()):
        return PACKAGE_PREFIX + file.relative_to(_package()).as_posix()
    return str(file)


def where_looked(path: Path) -> str:
    """Say for an error message where a path that does not exist was looked for; empty for an absolute one."""
    if path.is_absolute():
        return ""
    return (
        "A relative path is looked for beside the configuration file that names it, then in the working directory, "
        f"{Path.cwd()}. "
    )


def _package() -> Path:
    return Path(str(files("llds")))

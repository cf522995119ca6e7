"""Classes of the user's own: imported from beside the configuration that names them, and again from anywhere later.

A module is looked for beside the file that names it, among what is installed, in the working directory, and in the
folders of ``import_from``, which a run's own configuration says.
"""

import importlib.util
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llds.errors import ConfigurationError
from llds.paths import lasting_path, resolve_path

IMPORT_FROM = "import_from"
"""Key of the folders that classes of the user's own are imported from."""
IMPORT_FROM_HELP = "in a file: folders that your own classes are imported from, beside the file's and the working one"
_INSTALLED = ("site-packages", "dist-packages")


def modules_beside(values: Any, folder: Path) -> dict[str, Path]:
    """The modules that class paths name and whose source stands in a folder.

    Args:
        values: A configuration.
        folder: The folder.
    """
    modules = {text.rpartition(".")[0] for text in _strings(values) if not text.startswith("llds.")}
    found: dict[str, Path | None] = {}
    for module in modules - {""}:
        if all(word.isidentifier() for word in module.split(".")):
            path = folder.joinpath(*module.split("."))
            sources = (path.with_suffix(".py"), path / "__init__.py")
            found[module] = next((source for source in sources if source.is_file()), None)
    return {module: source for module, source in found.items() if source is not None}


def import_beside(values: Any, file: Path) -> None:
    """Let the classes that a configuration names be imported from its folder and those of ``import_from``.

    Args:
        values: What the file says.
        file: The file.

    Raises:
        ConfigurationError: If a folder does not exist, or Python finds another module of the same name first.
    """
    for name in values.get(IMPORT_FROM) or []:
        folder = resolve_path(name)
        if not folder.is_dir():
            raise ConfigurationError(f"Expected `{IMPORT_FROM}` to name folders, got {folder} in {file}. Correct it.")
        _append(folder)
    for module, source in modules_beside(values, file.parent.absolute()).items():
        _append(file.parent)
        found = _origin(module)
        if found is not None and found != source.resolve():
            raise ConfigurationError(
                f"Expected `{module}` in {file} to be {source}, which stands beside it, got {found}, which Python "
                "finds first. Rename the file and the class path."
            )


def check_import_from(folders: list[str]) -> None:
    """Refuse folders that came too late: from the command line, whose classes are looked up as it is read.

    Args:
        folders: The value of ``import_from``.

    Raises:
        ConfigurationError: If classes are not imported from one of them.
    """
    late = [name for name in folders if str(resolve_path(name).absolute()) not in sys.path]
    if late:
        raise ConfigurationError(
            f"Expected `{IMPORT_FROM}` in a configuration file, got {', '.join(late)} on the command line. Write it "
            "into a file, or set PYTHONPATH."
        )


def import_folders(values: Any) -> list[str]:
    """The folders that the classes of a configuration were imported from, without those of installed packages.

    Args:
        values: The configuration.
    """
    homes = {_home(text.partition(".")[0]) for text in _strings(values) if "." in text}
    return sorted(lasting_path(home) for home in homes if home is not None)


def _append(folder: Path) -> None:
    """Let modules of a folder be imported, after all others: none of them hides one of an installed package."""
    if str(folder.absolute()) not in sys.path:
        sys.path.append(str(folder.absolute()))


def _origin(module: str) -> Path | None:
    """The source that Python imports a module from; None if it finds none."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin).resolve() if spec and spec.origin else None


def _home(module: str) -> Path | None:
    """The folder that a top-level module was imported from; None for one that is not loaded, or is installed."""
    spec = sys.modules[module].__spec__ if module in sys.modules and module != "llds" else None
    places = list(spec.submodule_search_locations or []) if spec else []
    place = places[0] if places else spec.origin if spec and spec.has_location else None
    if place is None:
        return None
    home = Path(place).absolute().parent
    return None if home.name in _INSTALLED or str(home) == sysconfig.get_path("stdlib") else home


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _strings(one)
    elif isinstance(value, str):
        yield value

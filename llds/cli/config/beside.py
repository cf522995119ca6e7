"""What a configuration file names beside itself: files to read, and modules with classes of the user's own.

A relative path in a file is relative to that file where something to read stands there: a file, or the folder of a
model. Any other path, such as a folder that a run writes, is relative to the working directory. So is every path on the
command line. A word without a dot or a slash is no path to a file (`gate: token`); ``./token`` is.
"""

import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from llds.errors import ConfigurationError
from llds.paths import PACKAGE_PREFIX, lasting_path, resolve_path

IMPORT_FROM = "import_from"
"""Key of the folders that classes of the user's own are imported from."""
IMPORT_FROM_HELP = "in a file: folders that your own classes are imported from, beside the file's and the working one"
_INSTALLED = ("site-packages", "dist-packages")


def path_beside(text: str, folder: Path) -> Path | None:
    """What a value names in a folder; None where that is nothing to read.

    Args:
        text: The value.
        folder: The folder.
    """
    if not text or text.startswith((PACKAGE_PREFIX, "~")) or "${" in text or Path(text).is_absolute():
        return None
    path = folder / text
    try:
        is_file = _is_path_like(text) and path.is_file()
        return path if is_file or (path / "config.json").is_file() else None
    except (OSError, ValueError):  # a text that no file system takes for a name
        return None


def with_paths_beside(text: str, folder: Path) -> str:
    """Return the text of a configuration file with what it names beside itself as paths that hold anywhere.

    Everything else stays as it is, to the letter.

    Args:
        text: YAML.
        folder: Where the file lies.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    paths = [(node, path_beside(node.value, folder)) for node in _scalars(root)]
    paths += [(node, folder / resolve_path(node.value)) for node in _scalars(_value(root, IMPORT_FROM))]
    # By the place in the text: a node that is named twice (an alias) stands once.
    found = {node.start_mark.index: (node.end_mark.index, lasting_path(path)) for node, path in paths if path}
    for start, (end, path_text) in sorted(found.items(), reverse=True):
        text = f"{text[:start]}'{path_text.replace(chr(39), 2 * chr(39))}'{text[end:]}"
    return text


def modules_beside(values: Any, folder: Path) -> dict[str, Path]:
    """The modules that class paths name and whose source stands in a folder.

    Args:
        values: A configuration.
        folder: The folder.
    """
    modules = {text.rpartition(".")[0] for text in _strings(values)}
    found: dict[str, Path | None] = {}
    for module in modules - {""}:
        if all(word.isidentifier() for word in module.split(".")):
            path = folder.joinpath(*module.split("."))
            sources = (path.with_suffix(".py"), path / "__init__.py")
            found[module] = next((source for source in sources if source.is_file()), None)
    return {module: source for module, source in found.items() if source is not None}


def files_beside(file: Path) -> list[Path]:
    """All files that a configuration names beside itself: those to read, and the sources of classes.

    Args:
        file: The configuration.
    """
    root = yaml.compose(file.read_text(), Loader=yaml.SafeLoader)
    texts = [node.value for node in _scalars(root)]
    paths = [path_beside(text, file.parent) for text in texts]
    sources = modules_beside(texts, file.parent).values()
    return sorted({path for path in (*paths, *sources) if path is not None})


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


def with_lasting_paths(value: Any) -> Any:
    """Return a configuration whose paths that exist, relative to the working directory, hold from anywhere.

    Args:
        value: The configuration, or a value in it.
    """
    if isinstance(value, dict):
        return {name: with_lasting_paths(one) for name, one in value.items()}
    if isinstance(value, list):
        return [with_lasting_paths(one) for one in value]
    if not isinstance(value, str):
        return value
    path = path_beside(value, Path.cwd())
    if path is None and _is_path_like(value) and "\n" not in value and Path(value).is_dir():
        path = Path(value)  # an index
    return value if path is None else lasting_path(Path(os.path.normpath(path)))


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


def _is_path_like(text: str) -> bool:
    return "/" in text or bool(Path(text).suffix)


def _value(root: yaml.Node | None, key: str) -> yaml.Node | None:
    """What stands below a key at the top of a file."""
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    return next((value for name, value in pairs if name.value == key), None)


def _scalars(node: yaml.Node | None) -> Iterator[yaml.ScalarNode]:
    """The texts among the values below a node, not the keys."""
    if isinstance(node, yaml.MappingNode):
        for _, value in node.value:
            yield from _scalars(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _scalars(value)
    elif isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:str":
        yield node


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _strings(one)
    elif isinstance(value, str):
        yield value

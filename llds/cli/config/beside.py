"""What a configuration file names beside itself to be read, and how a saved one names it.

A relative path in a file is relative to that file where something to read stands there: a file, or the folder of a
model or of an index. Any other path, such as a folder that a run writes, is relative to the working directory. So is
every path on the command line. A word without a dot or a slash is no path to a file (`gate: token`); ``./token`` is.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from llds.cli.config.own_classes import IMPORT_FROM, modules_beside
from llds.paths import PACKAGE_PREFIX, lasting_path, resolve_path

_IN_FOLDERS = ("config.json", "manifest.json")
"""What a folder that is read holds: that of a model, and that of an index."""


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
        return path if is_file or any((path / name).is_file() for name in _IN_FOLDERS) else None
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
        properties = re.match(r"(?:[&!]\S+\s+)*", text[start:end])  # an anchor, a tag: they stay
        start += properties.end() if properties else 0
        text = f"{text[:start]}'{path_text.replace(chr(39), 2 * chr(39))}'{text[end:]}"
    return text


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
        path = Path(value)
    return value if path is None else lasting_path(Path(os.path.normpath(path)))


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

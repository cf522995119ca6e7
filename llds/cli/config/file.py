"""A first look at a configuration file, before the parser reads it.

Catches what the parser lets pass or reports without naming the file: a file that is not YAML, a key that
stands there twice (YAML keeps the last one in silence), an unknown key of the upper levels, a number where a group of
keys belongs. Left out: what stands below a ``class_path``, which the parser checks against the class.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from llds.cli.config.accepted import children
from llds.cli.config.beside import with_paths_beside
from llds.cli.config.errors import unknown_key
from llds.cli.config.own_classes import import_beside
from llds.errors import ConfigurationError
from llds.files.bounds import check_yaml, read_bytes


def check_config_file(path: str, options: Sequence[str]) -> str:
    """Return the text of a configuration for the parser; refuse a file that is none.

    Args:
        path: The file.
        options: All dotted keys that the parser has.

    Raises:
        ConfigurationError: With the file's name, and the line where there is one.
    """
    text, values = read_config_file(path)
    _check_keys(values, "", options, Path(path))
    return text


def read_config_file(path: str) -> tuple[str, Mapping[str, Any]]:
    """Return the text of a file and what it says, unresolved; what it names beside itself can be read from anywhere.

    Raises:
        ConfigurationError: If it is not YAML, says nothing, or names a class that cannot be imported from beside it.
    """
    file = Path(path)
    return _read(file, file.stat().st_mtime_ns if file.exists() else 0)


@lru_cache(maxsize=16)
def _read(file: Path, _changed: int) -> tuple[str, Mapping[str, Any]]:
    """Read a file as it was changed last: a command asks for it more than once."""
    try:
        text = read_bytes(file).decode()
        check_yaml(text)
        text = with_paths_beside(text, file.parent)
        values = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigurationError(
            f"Expected a YAML file, got an error at {file}{line}: {error.problem}. Correct the line."
        ) from error
    except (yaml.YAMLError, OSError, ValueError, OmegaConfBaseException) as error:
        words = " ".join(str(error).split())
        raise ConfigurationError(f"Expected a YAML file, got an error in {file}: {words}. Correct the file.") from error
    if not isinstance(values, dict) or not values:
        found = "a list" if isinstance(values, list) and values else "none"
        raise ConfigurationError(f"Expected keys and values in {file}, got {found}. Write lines of KEY: VALUE.")
    import_beside(values, file)
    return text, {str(key): value for key, value in values.items()}


def _check_keys(values: Mapping[str, Any], prefix: str, options: Sequence[str], file: Path) -> None:
    """Check one level of the file; below an option that takes a class there is nothing to check here."""
    accepted = children(prefix, options)
    for word, value in values.items():
        key = f"{prefix}.{word.removesuffix('+')}".lstrip(".")
        if word.removesuffix("+") not in accepted:
            raise ConfigurationError(f"{unknown_key(key, options)} (in {file})")
        if not children(key, options):
            continue
        if isinstance(value, dict):
            _check_keys(value, key, options, file)
        else:
            raise ConfigurationError(f"Expected keys and values below `{key}`, got {value!r} in {file}. Complete it.")

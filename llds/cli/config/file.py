"""A first look at a configuration file, before the parser reads it.

Catches what the parser lets pass or reports without naming the file: a file that is not YAML, a key that
stands there twice (YAML keeps the last one in silence), an unknown key of the upper levels, a number where a group of
keys belongs. Left out: what stands below a ``class_path``, which the parser checks against the class.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from llds.cli.config.accepted import children
from llds.cli.config.errors import unknown_key
from llds.errors import ConfigurationError
from llds.files.bounds import check_yaml, read_bytes


def check_config_file(path: str, options: Sequence[str]) -> None:
    """Refuse a file that is not a configuration.

    Args:
        path: The file.
        options: All dotted keys that the parser has.

    Raises:
        ConfigurationError: With the file's name, and the line where there is one.
    """
    file = Path(path)
    _check_keys(read_config_file(path), "", options, file)


def read_config_file(path: str) -> Mapping[str, Any]:
    """Return what a file says, unresolved.

    Raises:
        ConfigurationError: If it is not YAML, or says nothing.
    """
    file = Path(path)
    try:
        check_yaml(read_bytes(file).decode())
        values = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigurationError(
            f"Expected a YAML file, got an error at {file}{line}: {error.problem}. Correct the line."
        ) from error
    except (yaml.YAMLError, OSError, ValueError, OmegaConfBaseException) as error:
        raise ConfigurationError(f"Expected a YAML file, got an error in {file}: {error}. Correct the file.") from error
    if not isinstance(values, dict) or not values:
        raise ConfigurationError(f"Expected keys and values in {file}, got none. Complete the file.")
    return {str(key): value for key, value in values.items()}


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

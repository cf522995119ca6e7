"""The configurations that ship with llds, by name: `llds:quickstart` is conf/quickstart.yaml, cloned or not."""

import re
from difflib import get_close_matches
from pathlib import Path

from llds.errors import ConfigurationError
from llds.paths import PACKAGE_PREFIX, resolve_path

_FOLDER = "llds:conf"


def shipped_names() -> list[str]:
    """The names of all configurations, such as ``ablations/no_llds``; the recipes at the top first."""
    folder = resolve_path(_FOLDER)
    names = [path.relative_to(folder).as_posix().removesuffix(".yaml") for path in folder.rglob("*.yaml")]
    return sorted(names, key=lambda name: (name.rpartition("/")[0], name))


def shipped_file(name: str) -> Path:
    """Return the file of a configuration.

    Args:
        name: Its name, with or without `llds:` before it and ``.yaml`` after it.

    Raises:
        ConfigurationError: If there is none of that name; says the nearest.
    """
    bare = name.removeprefix(PACKAGE_PREFIX).removesuffix(".yaml")
    names = shipped_names()
    if bare in names:
        return resolve_path(f"{_FOLDER}/{bare}.yaml")
    close = _nearest(bare, names)
    advice = f"Did you mean {' or '.join(PACKAGE_PREFIX + one for one in close)}? " if close else ""
    raise ConfigurationError(
        f"Expected {PACKAGE_PREFIX}{bare} to be a configuration that ships with llds, got no such name. "
        f"{advice}`llds configs` lists them."
    )


def configuration_file(word: str) -> str:
    """Return the path of what stands after ``-c``: `llds:NAME` ships with llds, anything else is a path.

    Args:
        word: The word.

    Raises:
        ConfigurationError: If no configuration of that name ships with llds.
    """
    return str(shipped_file(word)) if word.startswith(PACKAGE_PREFIX) else word


def shipped_instead(path: str) -> str:
    """A sentence that names the configuration of llds that a path which does not exist may mean; empty if none.

    Args:
        path: Such as ``conf/quickstart.yaml``, outside of a clone.
    """
    name = re.sub(r"^(.*/)?conf/", "", path).removesuffix(".yaml")
    found = max((one for one in shipped_names() if f"/{name}".endswith(f"/{one}")), key=len, default="")
    return f"It ships with llds: -c {PACKAGE_PREFIX}{found}." if found else ""


def overlay_of(word: str) -> str:
    """The name of the configuration whose last part is a word, such as a method's; empty if none.

    Args:
        word: Such as ``rloo``.
    """
    return next((name for name in shipped_names() if name.rpartition("/")[2] == word.lower()), "")


def _nearest(word: str, names: list[str]) -> list[str]:
    """Up to three names like a word; one whose last part is the word, or like it, counts as like it."""
    last = word.rpartition("/")[2]
    parts = {name.rpartition("/")[2]: name for name in reversed(names)}
    close = [name for name in names if name.rpartition("/")[2] == last]
    close += get_close_matches(word, names, n=3) + [parts[one] for one in get_close_matches(last, parts, n=3)]
    return list(dict.fromkeys(close))[:3]

"""What a configuration gets that names a class whose package is not installed: which one, and for what."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

_REQUIREMENT = re.compile(r"Requirement '(?P<name>[\w.-]+)(?P<release>[^']*)' not met")
_MODULE = re.compile(r"No module named '(?P<name>\w+)")
_CLASS = re.compile(r"Problem with given class_path '([^']+)'")


def missing_package(message: str, config: Mapping[str, Any]) -> str:
    """The sentence that names the package and who needs it; empty if the message tells of none.

    Args:
        message: Of an ``ImportError``, or of the parser about one.
        config: What is built, for the key of the class.
    """
    found = _REQUIREMENT.search(message) or _MODULE.search(message)
    if not found:
        return ""
    name, release = found["name"], found.groupdict().get("release") or ""
    class_path = (_CLASS.findall(message[: found.start()]) or [""])[-1]
    key = next((key for key, value in _classes(config) if value == class_path), "")
    user = f"`{key}` ({class_path})" if key else class_path or "the configuration"
    return (
        f"Expected package {name} for {user}, got none of that name. Install it: pip install {name}"
        f"{f' ({release})' if release else ''}."
    )


def _classes(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Keys and class paths, those in lists under the key of the list."""
    if isinstance(value, list):
        for one in value:
            yield from _classes(one, key)
    elif isinstance(value, Mapping):
        for word, one in value.items():
            if word == "class_path" and isinstance(one, str):
                yield key, one
            else:
                yield from _classes(one, key if word == "init_args" else f"{key}.{word}".lstrip("."))

"""Whether a configuration is an overlay, which changes another one and is none by itself, and of what."""

import re
import shlex
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from llds.cli.config.shipped import configuration_file
from llds.errors import LLDSError

_CONFIG = re.compile(r"(?:^|\s)-c\s+(\S+)")


def overlay_alone(args: Sequence[str]) -> str:
    """The sentence for a command whose only configurations are overlays; empty if that is not what is wrong.

    Args:
        args: The command's arguments.
    """
    names = [word for flag, word in pairwise(args) if flag in ("-c", "--config")]
    recipes = [_recipe(name) for name in names]
    if not recipes or not all(recipes):
        return ""
    command = " ".join(["llds fit", *(f"-c {shlex.quote(name)}" for name in (recipes[0], *names))])
    return (
        f"Expected a whole configuration, got {' and '.join(names)}, which changes another one, such as {recipes[0]} "
        f"(an overlay). Name that one first: {command}."
    )


def _recipe(name: str) -> str:
    """The configuration that the first comment of another one names before it; empty if it names none."""
    try:
        text = Path(configuration_file(name)).read_text(encoding="utf-8")
    except (OSError, ValueError, LLDSError):  # whose error the parser has
        return ""
    comments = "".join(line for line in text.splitlines(keepends=True)[:6] if line.startswith("# llds "))
    first = _CONFIG.search(comments)
    own = Path(name.removeprefix("llds:")).with_suffix("").name
    return first[1] if first and Path(first[1].removeprefix("llds:")).with_suffix("").name != own else ""

"""Arguments of the commands that have no configuration; what is wrong with them is an error like any other."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from llds.cli.config.accepted import nearest
from llds.cli.help_format import ParagraphFormatter
from llds.cli.plain import say
from llds.errors import ConfigurationError


class ArgumentParser(argparse.ArgumentParser):
    """A parser that raises in place of ending the process.

    Args:
        usage: What a user types, with its arguments.
        description: What the command does.
        epilog: Stands below the options.
    """

    def __init__(self, usage: str, description: str, epilog: str) -> None:
        super().__init__(
            usage=usage,
            description=description,
            epilog=epilog,
            formatter_class=ParagraphFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Raise a `ConfigurationError` that says what is wrong, and the nearest right option to one that is not."""
        advice = ""
        unknown = re.match(r"unrecognized arguments: (--[^\s=]+)", message)
        if unknown:
            options = [word for action in self._actions for word in action.option_strings if word.startswith("--")]
            advice = f" {nearest(unknown[1], options)}"
        raise ConfigurationError(f"Expected `{self.usage}`, got: {message}.{advice}")


def runs_among(paths: Sequence[str]) -> list[str]:
    """Those of several paths that can be runs, so that ``runs/*`` may be said.

    What llds itself puts beside runs, the index of a retriever or a page about several runs, is left out, with a line.

    Args:
        paths: As they were typed; one alone is kept, whatever it is.
    """
    beside = [path for path in paths if len(paths) > 1 and _stands_beside_runs(Path(path))]
    for path in beside:
        say(f"Left out: {path}, which is {'a page' if Path(path).is_file() else 'an index'} and no run.", is_error=True)
    return [path for path in paths if path not in beside] or list(paths)


def _stands_beside_runs(path: Path) -> bool:
    if path.is_file():
        return path.suffix == ".html"
    try:
        return '"passages_hash"' in (path / "manifest.json").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def names_of(paths: Sequence[str | Path]) -> list[str]:
    """The last parts of the paths, as many as tell them apart.

    Args:
        paths: At least one.
    """
    parts = [Path(path).resolve().parts for path in paths]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-count:]) for one in parts]
        if len(set(names)) == len(set(parts)):
            break
    return names

"""``llds configs``: the configurations that ship with llds, listed, shown, or copied to be edited."""

import re
import shlex
import shutil
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from textwrap import shorten

from llds.cli.arguments import ArgumentParser
from llds.cli.config.beside import files_beside
from llds.cli.config.shipped import shipped_file, shipped_names
from llds.cli.plain import say
from llds.errors import ConfigurationError
from llds.paths import lasting_path

_USAGE = "llds configs [list | show NAME | copy NAME [TARGET]]"
_DESCRIPTION = """\
List, show or copy the configurations that ship with llds. `-c llds:NAME` uses one as it is, in any folder."""
_EPILOG = """
NAME is as in the list, such as ablations/no_llds; after -c it is written llds:ablations/no_llds.
TARGET is a file or a folder, the working directory where it is left out. What the configuration names beside itself
(data, classes) is copied with it, and nothing is overwritten.

examples:
  llds configs                                           # what there is, with what each is for
  llds configs show quickstart
  llds configs copy agents/calculator mine/              # calculator.yaml and what it needs, to be edited
  llds fit -c llds:quickstart -c llds:ablations/no_llds
"""
_TOP = "recipes, and parts for any of them"


def configs(args: Sequence[str]) -> None:
    """List, show or copy configurations.

    Args:
        args: Arguments after ``configs``.

    Raises:
        ConfigurationError: There is none of this name, or the target cannot be written.
    """
    parser = ArgumentParser(_USAGE, _DESCRIPTION, _EPILOG)
    parser.add_argument("action", nargs="?", choices=("list", "show", "copy"), default="list", help="(list)")
    parser.add_argument("name", nargs="?", metavar="NAME", help="configuration to show or to copy")
    parser.add_argument("target", nargs="?", metavar="TARGET", help="where the copy goes")
    options = parser.parse_args(list(args))
    if (options.name is None) != (options.action == "list") or (options.target and options.action != "copy"):
        parser.error(f"`{shlex.join(['llds', 'configs', *args])}`")
    if options.action == "list":
        _list()
    elif options.action == "show":
        say(shipped_file(options.name).read_text().rstrip("\n"))
    else:
        try:
            _copy(options.name, Path(options.target or "."))
        except OSError as error:
            raise ConfigurationError(f"Expected a TARGET that can be written, got: {error}. Name another.") from error


def description(text: str) -> str:
    """The first sentence of what a configuration's comments say it is for.

    Args:
        text: The file.
    """
    lines = [line[1:].strip() for line in text[len(_head(text)) :].splitlines() if line.startswith("#")]
    return re.split(r"(?<=[.])\s+(?=[A-Z])", " ".join(lines))[0]


def command(text: str) -> str:
    """The first command of a configuration's comments, without its line breaks.

    Args:
        text: The file.
    """
    return _head(text).replace("\\\n#", "").splitlines()[0].removeprefix("# ")


def _head(text: str) -> str:
    """The lines at the top that are commands."""
    found = re.match(r"(# llds .*[^\\]\n|# llds (.*\\\n)+.*\n)+", text)
    return found[0] if found else ""


def _list() -> None:
    names = shipped_names()
    width = max(map(len, names)) + len("  llds:") + 2
    columns = max(shutil.get_terminal_size((160, 24)).columns, width + 30)
    for group, members in groupby(names, key=lambda name: name.rpartition("/")[0] or _TOP):
        say(group)
        for name in members:
            say(f"  llds:{name}".ljust(width) + shorten(description(shipped_file(name).read_text()), columns - width))
    say("\nUse them: llds fit -c llds:quickstart. One whole: llds configs show NAME. To edit: llds configs copy NAME.")


def _copy(name: str, target: Path) -> None:
    """Copy a configuration and what it names beside itself; its comments then name the copy."""
    source = shipped_file(name)
    file = target if target.suffix in (".yaml", ".yml") else target / source.name
    text = _naming(source, file)
    others = {one: file.parent / one.relative_to(source.parent) for one in files_beside(source)}
    present = [str(path) for path in (file, *others.values()) if path.exists()]
    if present:
        raise ConfigurationError(f"Expected new files, got {', '.join(present)}, which exist. Name another TARGET.")
    for path in (file, *others.values()):
        path.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    for one, path in others.items():
        shutil.copyfile(one, path)
    say(f"Copied: {', '.join(map(str, (file, *others.values())))}")
    say(f"Run it: {command(text)}")


def _naming(source: Path, file: Path) -> str:
    """The text of a configuration, with a copy's path where its comments name itself."""
    name = lasting_path(source).removeprefix("llds:conf/").removesuffix(".yaml")
    itself = re.compile(rf"-c llds:{re.escape(name)}(?![\w./-])")
    lines = source.read_text().splitlines(keepends=True)
    return "".join(
        itself.sub(lambda _: f"-c {shlex.quote(str(file))}", line) if line.startswith("#") else line for line in lines
    )

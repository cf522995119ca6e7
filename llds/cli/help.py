"""What ``llds --help`` prints, and what a word gets that is no command."""

from llds.cli.config.accepted import nearest
from llds.cli.table import COMMANDS, GROUPS

_OVERVIEW = """usage: llds COMMAND [options]

Train search agents with GRPO + LLDS: see the collapse coming, understand it, keep training.

start with:
  llds fit -c llds:quickstart                     train a small agent: two CPU cores, 90 seconds
  llds test -c llds:quickstart --ckpt_path last   measure what was trained
  llds diagnose runs/quickstart                   say whether a run is healthy, and why not
"""
_OPTIONS = """
options:
  -h, --help        show this text; `llds COMMAND --help` explains a command, with examples
  --version         show the version
"""
_WIDTH = 18


def overview() -> str:
    """All commands with a sentence each, by what they are for."""
    parts = [_OVERVIEW]
    for title, commands in GROUPS.items():
        lines = [f"  {command.name:<{_WIDTH - 2}}{command.help}" for command in commands]
        parts.append("\n".join(["", f"{title}:", *lines, ""]))
    return "".join([*parts, _OPTIONS])


def wrong_command(word: str) -> str:
    """The sentence for a first word that names no command.

    Args:
        word: The word.
    """
    if word.startswith("-"):
        return (
            f"Expected a command first, got the option `{word}`. Write llds COMMAND {word} ...; `llds --help` lists "
            "the commands."
        )
    return f"Expected one of {', '.join(COMMANDS)}, got `{word}`. {nearest(word, COMMANDS, 'llds ')}"

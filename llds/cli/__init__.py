"""The command line: ``llds fit | validate | test | predict``.

This file stays light, so that Ctrl-C is quiet during the seconds in which torch and transformers are imported too.
"""

import sys


def main(args: list[str] | None = None) -> None:
    """The command ``llds``.

    Args:
        args: Arguments; None takes those of the process.
    """
    try:
        from llds.cli.command import run_command

        run_command(args)
    except KeyboardInterrupt:
        sys.exit("llds: interrupted")


__all__ = ["main"]

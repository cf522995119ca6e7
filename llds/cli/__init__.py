"""The command line: ``llds fit | validate | test | predict`` and the commands of `llds.cli.commands`.

This file stays light, so that Ctrl-C is quiet during the seconds in which torch and transformers are imported too; and
``diagnose``, ``report`` and ``configs`` do without them.
"""

import sys


def main(args: list[str] | None = None) -> None:
    """The command ``llds``.

    Args:
        args: Arguments; None takes those of the process.
    """
    words = sys.argv[1:] if args is None else args
    try:
        if words[:1] == ["diagnose"]:
            from llds.cli.commands.diagnose import diagnose

            diagnose(words[1:])
        elif words[:1] == ["report"]:
            from llds.cli.commands.report import report

            report(words[1:])
        elif words[:1] == ["configs"]:
            from llds.cli.commands.configs import configs

            configs(words[1:])
        else:
            from llds.cli.training.command import run_command

            run_command(args)
    except KeyboardInterrupt:
        sys.exit("llds: interrupted")


__all__ = ["main"]

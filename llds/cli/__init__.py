"""The command line: ``llds fit | validate | test | predict``, ``serve-retriever``, ``diagnose`` and ``report``.

This file stays light, so that Ctrl-C is quiet during the seconds in which torch and transformers are imported too; and
``diagnose`` and ``report`` do without them.
"""

import sys

INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 + the number of SIGINT, as of any program that a signal ends."""


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
        else:
            from llds.cli.training.command import run_command

            run_command(args)
    except KeyboardInterrupt:
        print("llds: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


__all__ = ["INTERRUPTED", "main"]

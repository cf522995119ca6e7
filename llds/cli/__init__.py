"""The command line: one command, ``llds``, whose subcommands stand in `llds.cli.table`.

This file stays light, so that help comes at once, and Ctrl-C is quiet while torch and transformers are imported too.
"""

import os
import sys

INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 + the number of SIGINT, as of any program that a signal ends."""


def main(args: list[str] | None = None) -> None:
    """The command ``llds``. An error that llds raises on purpose is one sentence, and exit status 1.

    Args:
        args: Arguments; None takes those of the process.
    """
    words = sys.argv[1:] if args is None else args
    if sys.platform == "win32":
        sys.exit("llds: Expected Linux or macOS, got Windows. Use WSL (`wsl --install`) and install llds in it.")
    try:
        _run(words, is_process=args is None)
    except KeyboardInterrupt:
        print("llds: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _run(words: list[str], is_process: bool) -> None:
    from llds.cli.help import overview, wrong_command
    from llds.cli.table import COMMANDS
    from llds.errors import LLDSError

    if not words:
        sys.stderr.write(overview())
        sys.exit(1)
    if words[0] == "help" and words[1:2] and words[1] in COMMANDS:
        words = [words[1], "--help"]
    if words[0] in ("-h", "--help", "help"):
        sys.stdout.write(overview())
        return
    if words[0] == "--version":
        from llds import __version__

        print(f"llds {__version__}")
        return
    if words[0] not in COMMANDS:
        sys.exit(f"llds: {wrong_command(words[0])}")
    if is_process and COMMANDS[words[0]].trains and words[1:] in (["-h"], ["--help"]):
        from llds.cli.training.stand_ins import stand_in

        stand_in()  # the process ends with the help
    if is_process and COMMANDS[words[0]].trains and "LOCAL_RANK" not in os.environ:
        # The libraries take seconds on a warm disk, and half a minute on a cold one.
        print(f"llds {words[0]}: loading torch, transformers and Lightning", file=sys.stderr, flush=True)
    try:
        COMMANDS[words[0]].run(words[1:])
    except LLDSError as error:
        sys.exit(f"llds: {error}")


__all__ = ["INTERRUPTED", "main"]

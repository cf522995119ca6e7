"""``llds diagnose``: whether a run collapses, and why, from its metrics; also those of other frameworks."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from llds.cli.arguments import ArgumentParser, runs_among
from llds.cli.commands.diagnose.judged import Diagnosed, read_diagnosed
from llds.cli.commands.diagnose.text import print_all
from llds.cli.commands.diagnose.watch import watch
from llds.errors import ConfigurationError, LLDSError

ALARM, UNJUDGED, BAD_INPUT = 2, 3, 1
_EPILOG = """
reads:
  llds       a run's folder (CSV or TensorBoard), metrics.csv
  TRL        console log, notebook, trainer_state.json or its folder
  verl       console log or file logger
  consoles   of prime-rl, slime, OpenRLHF, NeMo-RL, AReaL, ms-swift; tables of steps as text
  others     metrics.jsonl, W&B histories (csv, jsonl) and .wandb files, TensorBoard folders; all of these as .gz too

exit status:
  0 no alarm at the end of any run   2 an alarm at the end of a run
  1 bad input: a log cannot be read, and no other has an alarm
  3 nothing could be judged: no reward in the log, or too few rows

examples:
  llds diagnose runs/quickstart
  llds diagnose logs/*.log                     # one line a log, the worst first
  llds diagnose --watch 60 train.log           # says when it changes, until Ctrl-C
  llds diagnose --explain why.html train.log   # the curves with what it saw
  llds diagnose --json verl.log | jq '.[0].verdict.kind'   # schema: docs/diagnose.schema.json
"""


def diagnose(args: Sequence[str]) -> None:
    """Diagnose the runs of the arguments after ``diagnose``; exits with a status that is not 0 where it should."""
    parser = _parser()
    try:
        options = parser.parse_args(list(args))
        if options.warmup < 3:
            raise ConfigurationError(f"Expected `--warmup` >= 3, got {options.warmup}.")
        if options.watch is not None and options.watch <= 0:
            raise ConfigurationError(f"Expected `--watch` > 0 seconds, got {options.watch:g}.")
        beside = [f"--{name}" for name in ("json", "explain", "verbose") if getattr(options, name)]
        if options.watch is not None and beside:
            raise ConfigurationError(f"Expected `--watch` alone, which prints lines, got `{beside[0]}` beside it.")
        if options.watch is not None:
            sys.exit(status(watch(runs_among(options.paths), options.warmup, options.watch)))
        by_path, unread = _read(runs_among(options.paths), options.warmup)
        found = list(by_path.values())
        if options.explain:
            _explain(list(by_path), options.explain)
    except LLDSError as error:
        sys.exit(f"llds: {error}")
    try:
        if options.json:
            sys.stdout.write(json.dumps([one.as_dict() for one in found], indent=2) + "\n")
        else:
            print_all(Console(highlight=False), found, options.verbose)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    for reason in unread:
        print(f"llds: {reason}", file=sys.stderr)
    code = status(found)
    if unread and code != ALARM:
        code = BAD_INPUT
    if code:
        sys.exit(code)


def status(found: Sequence[Diagnosed]) -> int:
    """The exit status that some runs lead to."""
    if any(one.level == "alarm" for one in found):
        return ALARM
    return UNJUDGED if found and all(not one.is_judged for one in found) else 0


def _read(paths: Sequence[str], warmup: int) -> tuple[dict[str, Diagnosed], list[str]]:
    """What can be read, by path, and why the rest cannot: one strange file among many logs hides no alarm.

    Raises:
        LLDSError: If nothing can be read.
    """
    found: dict[str, Diagnosed] = {}
    unread: list[str] = []
    for path in paths:
        try:
            found[path] = read_diagnosed(path, warmup)
        except LLDSError as error:
            unread.append(str(error))
    if not found:
        raise LLDSError("\nllds: ".join(unread))
    return found, unread


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        "llds diagnose PATH [PATH ...] [--json] [-v] [--watch SECONDS] [--explain FILE]",
        "Say from a run's metrics in which phase of collapse it is, why, and what to do.",
        _EPILOG,
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="metrics file or folder of a run")
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")
    parser.add_argument("-v", "--verbose", action="store_true", help="list the columns that were used and ignored")
    parser.add_argument("--watch", type=float, metavar="SECONDS", help="look again every so often, tell what changes")
    parser.add_argument("--explain", metavar="FILE", help="also write a page with the curves and what was seen in them")
    parser.add_argument(
        "--warmup", type=int, default=5, help="iterations that give the baselines, at least 3 (default: 5)"
    )
    return parser


def _explain(paths: Sequence[str], page: str) -> None:
    from llds.report import read_run, write_report  # draws: not needed for the verdict alone

    try:
        write_report([read_run(path) for path in paths], Path(page))
    except OSError as error:
        raise ConfigurationError(
            f"Expected `--explain` to be a file that can be written, got: {error}. Name another."
        ) from error

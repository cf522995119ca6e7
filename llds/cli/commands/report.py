"""``llds report``: one HTML page about a run, or about several side by side."""

import re
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

from llds.cli.arguments import ArgumentParser, names_of, runs_among
from llds.cli.plain import say
from llds.errors import LLDSError

_EPILOG = """
reads:
  run folders of llds; of other frameworks, whatever `llds diagnose` reads (curves and verdict only)

examples:
  llds report runs/quickstart                     # writes runs/quickstart/report.html
  llds report runs/with runs/without              # runs/report-with-without.html: overlays, results and settings
  llds report runs/sweep/* -o sweep.html          # and means over the seeds of each experiment, for a paper
"""
_LONGEST_NAME = 80


def report(args: Sequence[str]) -> None:
    """Write the page for the arguments after ``report``; exits with 1 for bad input."""
    parser = ArgumentParser(
        "llds report RUN [RUN ...] [-o FILE]",
        "Write one HTML page about a run or several: verdict, curves, settings, trajectories.",
        _EPILOG,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder or metrics file of a run")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="the page (default: report.html in the run's folder; of several runs, a page beside them)",
    )
    try:
        options = parser.parse_args(list(args))
        from llds.report import read_run, write_report

        paths = runs_among(options.runs)
        runs = [read_run(path, name) for path, name in zip(paths, names_of(paths), strict=True)]
        path = write_report(runs, options.output or _page(paths))
    except LLDSError as error:
        sys.exit(f"llds: {error}")
    except OSError as error:
        sys.exit(f"llds: Expected `--output` to be a file that can be written, got: {error}. Name another.")
    say(f"Report: {path}")


def _page(paths: Sequence[str]) -> Path:
    """Where the page goes: into the folder of a run; of several, beside the first, under a name that is theirs."""
    first = Path(paths[0])
    if len(paths) == 1:
        return (first if first.is_dir() else first.parent) / "report.html"
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(names_of(paths)))
    if len(name) > _LONGEST_NAME:
        name = f"{name[:_LONGEST_NAME]}-{zlib.crc32(name.encode()):08x}"
    return first.resolve().parent / f"report-{name}.html"

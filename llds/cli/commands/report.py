"""``llds report``: one HTML page about a run, or about several side by side."""

import sys
from collections.abc import Sequence
from pathlib import Path

from llds.cli.arguments import ArgumentParser
from llds.cli.plain import say
from llds.errors import LLDSError

_EPILOG = """
reads:
  run folders of llds; of other frameworks, whatever `llds diagnose` reads (curves and verdict only)

examples:
  llds report runs/quickstart                     # writes runs/quickstart/report.html
  llds report runs/with runs/without -o ab.html   # overlays the curves, compares results and settings
"""


def report(args: Sequence[str]) -> None:
    """Write the page for the arguments after ``report``; exits with 1 for bad input."""
    parser = ArgumentParser(
        "llds report RUN [RUN ...] [-o FILE]",
        "Write one HTML page about a run or several: verdict, curves, settings, trajectories.",
        _EPILOG,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder or metrics file of a run")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="the page (default: report.html in the first run's folder)"
    )
    try:
        options = parser.parse_args(list(args))
        from llds.report import read_run, write_report

        runs = [read_run(path, name) for path, name in zip(options.runs, _names(options.runs), strict=True)]
        path = write_report(runs, options.output or _beside(Path(options.runs[0])))
    except LLDSError as error:
        sys.exit(f"llds: {error}")
    except OSError as error:
        sys.exit(f"llds: Expected `--output` to be a file that can be written, got: {error}. Name another.")
    say(f"Report: {path}")


def _names(paths: Sequence[str]) -> list[str]:
    """The last parts of the paths, as many as tell them apart."""
    parts = [Path(path).resolve().parts for path in paths]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-count:]) for one in parts]
        if len(set(names)) == len(set(parts)):
            break
    return names


def _beside(run: Path) -> Path:
    return (run if run.is_dir() else run.parent) / "report.html"

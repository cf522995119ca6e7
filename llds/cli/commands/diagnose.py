"""``llds diagnose``: whether a run collapses, and why, from its metrics; also those of other frameworks."""

import json
import os
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from llds.cli.arguments import ArgumentParser
from llds.errors import ConfigurationError, LLDSError
from llds.monitor import PHASES, MetricTable, Summary, read_metrics, summarize
from llds.monitor import diagnose as diagnose_table
from llds.monitor.causes import NAMES
from llds.monitor.signals import REWARD

_EPILOG = """
reads:
  llds       a run's folder (CSV or TensorBoard), metrics.csv
  TRL        trainer_state.json or its folder
  verl       console log or file logger
  prime-rl   metrics.jsonl
  others     W&B histories (csv, jsonl), TensorBoard folders; all of these as .gz too

exit status:
  0 no alarm at the end of any run   1 bad input   2 an alarm at the end of a run

examples:
  llds diagnose runs/quickstart
  llds diagnose outputs/checkpoint-500/trainer_state.json
  llds diagnose --json verl.log | jq '.[0].diagnosis.cause'
"""
_STYLES = {"none": "bold green", "warning": "bold yellow", "alarm": "bold red"}


def diagnose(args: Sequence[str]) -> None:
    """Diagnose the runs of the arguments after ``diagnose``; exits with 1 for bad input, 2 for an alarm."""
    parser = ArgumentParser(
        "llds diagnose PATH [PATH ...] [--json] [-v]",
        "Say from a run's metrics in which phase of collapse it is, why, and what to do.",
        _EPILOG,
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="metrics file or folder of a run")
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")
    parser.add_argument("-v", "--verbose", action="store_true", help="list the columns that were used and ignored")
    parser.add_argument(
        "--warmup", type=int, default=5, help="iterations that give the baselines, at least 3 (default: 5)"
    )
    try:
        options = parser.parse_args(list(args))
        if options.warmup < 3:
            raise ConfigurationError(f"Expected `--warmup` >= 3, got {options.warmup}.")
        tables = [read_metrics(path) for path in options.paths]
    except LLDSError as error:
        sys.exit(f"llds: {error}")
    found = [(table, summarize(diagnose_table(table.rows, warmup=options.warmup))) for table in tables]
    try:
        if options.json:
            sys.stdout.write(json.dumps([_as_json(*one) for one in found], indent=2) + "\n")
        else:
            console = Console(highlight=False)
            for one in found:
                _print(console, *one, options.verbose)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if any(summary.now.level == "alarm" for _, summary in found):
        sys.exit(2)


def _as_json(table: MetricTable, summary: Summary) -> dict[str, object]:
    return {
        "path": table.path,
        "framework": table.framework,
        "iterations": len(table.rows),
        "signals": table.signals,
        "ignored": table.ignored,
        "diagnosis": summary.now.as_dict(),
        "phases": [vars(stretch) for stretch in summary.phases],
        "alarms": [{"start": start, "end": end} for start, end in summary.alarms],
    }


def _print(console: Console, table: MetricTable, summary: Summary, verbose: bool) -> None:
    now = summary.now
    first, last = table.rows[0][0], table.rows[-1][0]
    console.print(f"[bold]{escape(table.path)}[/]  {table.framework}, {len(table.rows)} iterations ({first}-{last})")
    lines = Table.grid(padding=(0, 2))
    lines.add_column(style="dim", no_wrap=True)
    lines.add_column()
    state = "no warning" if now.level == "none" else f"{now.level} since iteration {now.since}"
    lines.add_row("state", f"[{_STYLES[now.level]}]{state}[/]")
    lines.add_row(
        "phase", PHASES[now.phase] + (" (healthy runs do too)" if now.level == "none" and now.phase == "decay" else "")
    )
    if REWARD in table.signals:
        lines.add_row(
            "reward", "at its peak" if now.reward_lost < 0.005 else f"{now.reward_lost:.0%} under its peak, smoothed"
        )
    lines.add_row(
        "course", " | ".join(f"{PHASES[one.phase].split(':')[0]} {one.start}-{one.end}" for one in summary.phases)
    )
    past = [f"{start}-{end}" for start, end in summary.alarms if now.level != "alarm" or end != now.iteration]
    if past:
        lines.add_row("past alarms", ", ".join(past))
    if now.cause is not None:
        lines.add_row("cause", f"[bold]{NAMES[now.cause]}[/]")
        for number, words in enumerate(now.evidence):
            lines.add_row("" if number else "evidence", escape(words))
        lines.add_row("agreement", f"{now.confidence:.0%} of the signals that can tell")
        if now.iterations_to_collapse is not None:
            lines.add_row(
                "outlook", f"half of the peak reward is lost in about {now.iterations_to_collapse:.0f} iterations"
            )
        lines.add_row("advice", now.advice)
    for note in _notes(table):
        lines.add_row("note", note)
    if verbose:
        lines.add_row("signals", escape(", ".join(table.signals)))
        lines.add_row("ignored", escape(", ".join(table.ignored) or "-"))
    console.print(Padding(lines, (0, 0, 1, 2)))


def _notes(table: MetricTable) -> list[str]:
    notes = []
    if REWARD not in table.signals:
        notes.append("no reward among the columns: only faults can be seen, no collapse")
    if len(table.rows) < 10:
        notes.append(f"{len(table.rows)} iterations are little to judge from")
    return notes

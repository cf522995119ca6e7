"""What is said of logs, for a person: the whole of one, a line for each of several."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from llds.cli.commands.diagnose.judged import Diagnosed, worst_first
from llds.monitor import PHASES, MetricTable
from llds.monitor.causes import NAMES

STYLES = {"none": "bold green", "note": "bold green", "warning": "bold yellow", "alarm": "bold red"}
_PLAIN = "bold"
MOST_MOVED = 4


def print_all(console: Console, found: Sequence[Diagnosed], verbose: bool) -> None:
    """Print a single log whole, several as a table with the worst first; with ``verbose`` these whole, too."""
    if len(found) > 1:
        console.print(_table(worst_first(found)))
    if len(found) == 1 or verbose:
        for one in worst_first(found):
            _print(console, one, verbose)


def _table(found: Sequence[Diagnosed]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("log", overflow="fold")
    for name in ("rows", "verdict", "cause", "first to move"):
        table.add_column(name)
    for one in found:
        now = one.summary.now
        loud = now.level in ("warning", "alarm")
        cause = (now.cause or "").replace("_", " ") if loud else ""
        moved = now.moved[0] if now.moved and loud else ""
        words = one.verdict.words if loud else one.verdict.kind.replace("_", " ")
        table.add_row(
            escape(one.table.path), str(len(one.table.rows)), f"[{_style(one)}]{words}[/]", cause, escape(moved)
        )
    return table


def _style(one: Diagnosed) -> str:
    return STYLES[one.level] if one.verdict.kind in ("alarm", "warning", "quiet") else _PLAIN


def _print(console: Console, one: Diagnosed, verbose: bool) -> None:
    table, summary, now = one.table, one.summary, one.summary.now
    console.print(f"[bold]{escape(table.path)}[/]  {table.framework}, {_extent(table)}")
    lines = Table.grid(padding=(0, 2))
    lines.add_column(style="dim", no_wrap=True)
    lines.add_column()
    columns = f"{table.known} of {table.columns} columns"
    lines.add_row("judged from", f"{one.verdict.basis} ({columns})")
    lines.add_row("verdict", f"[{_style(one)}]{one.verdict.words}[/]")
    if now.reward is not None:
        lines.add_row("reward", now.reward.words)
    if one.is_judged and len({stretch.phase for stretch in summary.phases}) > 1:
        stretches = (f"{PHASES[part.phase].split(':')[0]} {part.start}-{part.end}" for part in summary.phases)
        lines.add_row("course", " | ".join(stretches))
    past = [f"{start}-{end}" for start, end in summary.alarms if now.level != "alarm" or end != now.iteration]
    if past:
        lines.add_row("past alarms", ", ".join(past))
    if now.level in ("warning", "alarm"):
        _add_trouble(lines, one)
    if verbose:
        _add_rows(lines, "unusual", now.evidence if now.level == "note" else ())
        lines.add_row("signals", escape(", ".join(table.signals)))
        lines.add_row("ignored", escape(", ".join(table.ignored) or "-"))
    console.print(Padding(lines, (0, 0, 1, 2)))


def _extent(table: MetricTable) -> str:
    first, last, rows = table.rows[0][0], table.rows[-1][0], len(table.rows)
    one_each = rows == last - first + 1
    return f"{rows} iterations ({first}-{last})" if one_each else f"{rows} rows, iterations {first}-{last}"


def _add_trouble(lines: Table, one: Diagnosed) -> None:
    now = one.summary.now
    lines.add_row("cause", f"[bold]{NAMES[now.cause or 'unknown']}[/]")
    _add_rows(lines, "evidence", now.evidence)
    _add_rows(lines, "moved first", now.moved[:MOST_MOVED])
    lines.add_row("agreement", f"{now.confidence:.0%} of the signs of collapse that this log can show")
    lines.add_row("advice", now.advice)


def _add_rows(lines: Table, name: str, rows: Sequence[str]) -> None:
    for number, words in enumerate(rows):
        lines.add_row("" if number else name, escape(words))

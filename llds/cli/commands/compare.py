"""``llds compare``: the differences of evaluations' cards first, then numbers: over seeds, paired by question."""

import re
import sys
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, get_args

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llds.cli.arguments import ArgumentParser, names_of, runs_among
from llds.cli.commands.compare_seeds import seeded_run, table_of_groups
from llds.errors import ConfigurationError
from llds.evaluation import (
    Difference,
    EvaluationRecord,
    PairedDifference,
    SeededRun,
    SeedGroup,
    TableFormat,
    card_differences,
    group_by_seed,
    list_records,
    missing_figures,
    pair_questions,
    paired_differences,
    read_record,
    seed_notes,
    summarize,
)
from llds.evaluation.paired import Metric, Pairs

_DESCRIPTION = """\
Compare evaluations: first what differs in their conditions (data, prompt, tools, retriever, limits, sampling), then the
numbers, paired by question, all runs with the first one. Evaluations under other conditions are compared too, below a
warning that says so. Intervals (95%) and p come from 10,000 resamples of the questions that both answered; the seed is
fixed, so the same command prints the same figures.

Runs that differ in nothing but their seeds (by the config.yaml of their folders) are one experiment: mean and 95%
interval over training runs. --format prints that table alone, for a paper."""
_EXAMPLES = """
examples:
  llds compare runs/start runs/trained
  llds compare runs/start runs/seed-0 runs/seed-1 --metric f1
  llds compare runs/sweep/* --format latex > table.tex
"""
_HEADINGS = {
    "condition": "Conditions that differ",
    "policy": "Policies that differ (what is compared)",
    "seed": "Seeds of the measurement that differ",
    "environment": "Environments that differ",
}
_TITLES = {"exact_match": "exact match", "substring_match": "substring match", "f1": "F1"}
_LONGEST = 60


def compare(args: Sequence[str]) -> None:
    """Read, compare, print.

    Args:
        args: Arguments after ``compare``.

    Raises:
        ConfigurationError: Fewer than two evaluations are named.
        DataError: A folder holds no evaluation.
    """
    usage = "llds compare RUN RUN [RUN ...] [--metric METRIC] [--format FORMAT]"
    parser = ArgumentParser(usage, _DESCRIPTION, _EXAMPLES)
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folder of a run that was tested (its latest evaluation counts), or of one evaluation",
    )
    parser.add_argument(
        "--metric",
        choices=get_args(Metric),
        default="exact_match",
        help="score of a question, 0 to 1, whose differences are shown: %(choices)s (default: %(default)s)",
        metavar="METRIC",
    )
    parser.add_argument(
        "--format",
        choices=get_args(TableFormat),
        help="print the table of experiments alone, as csv, md (Markdown) or latex; notes on it go to stderr",
        metavar="FORMAT",
    )
    options = parser.parse_args(list(args))
    runs = [Path(path) for path in runs_among(options.runs)]
    if len(runs) < 2:
        raise ConfigurationError("Expected at least two runs to compare, got one. Name another.")
    records = [read_record(path) for path in runs]
    if len({record.folder.resolve() for record in records}) < len(records):
        raise ConfigurationError("Expected different evaluations, got the same one twice. Name another.")
    if options.format is None:
        show(Console(), records, runs, options.metric)
    else:
        write_table(records, names_of(runs), options.metric, options.format)


def show(console: Console, records: Sequence[EvaluationRecord], paths: Sequence[Path], metric: Metric) -> None:
    """Print the whole comparison."""
    for letter, record, path in zip(_letters(records), records, paths, strict=True):
        console.print(f"{letter}: {record.folder}{_said_of(record, path)}", soft_wrap=True, highlight=False)
    differences = card_differences([record.card for record in records])
    lines = card_lines(differences, len(records)) or ["The cards are equal: one policy, measured again."]
    for line in [*lines, *(_same_policies(records) if differences else ())]:
        console.print(line, soft_wrap=True, highlight=False)
    first, *others = records
    named = list(zip(_letters(records)[1:], others, strict=True))
    for letter, other in named:
        _say_conditions(console, card_differences([first.card, other.card]), letter)
    console.print(summary_table(records))
    told = _show_groups(console, records, metric)
    for letter, other in (one for number, one in enumerate(named, start=1) if number not in told):
        pairs = pair_questions(first.questions, other.questions)
        _say_unpaired(console, pairs, letter)
        if pairs.both:
            console.print(paired_table(paired_differences(pairs, metric), f"{letter} - A: {_TITLES[metric]}", letter))


def write_table(
    records: Sequence[EvaluationRecord], names: Sequence[str], metric: Metric, table_format: TableFormat
) -> None:
    """Print the table of experiments alone, and on standard error what a reader of it must know."""
    groups, runs = _grouped(records, names)
    table = table_of_groups(groups, runs, records, metric, _TITLES[metric])
    notes = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    for differing in _measured_otherwise(groups, records):
        notes.print(f"{runs[differing].name} was not measured like {runs[0].name}: compare them with care.")
    for line in [*seed_notes(groups, runs), *missing_figures(table, groups, runs), *_single(groups, runs)]:
        notes.print(line)
    sys.stdout.write(table.text(table_format))


def card_lines(differences: Sequence[Difference], count: int) -> list[str]:
    """One line per value that differs, below a heading for each kind."""
    letters, lines = _letters(range(count)), []
    for kind, heading in _HEADINGS.items():
        found = [one for one in differences if one.kind == kind]
        lines += [f"[bold]{heading}[/]"] if found else []
        for one in found:
            values = "   ".join(f"{letter}: {_short(value)}" for letter, value in zip(letters, one.values, strict=True))
            lines.append(f"  {one.key}   {escape(values)}")
    return lines


def summary_table(records: Sequence[EvaluationRecord]) -> Table:
    """The numbers of each run over all of its own questions."""
    headings = ("", "n", "EM", "sub. EM", "F1", "calls", "valid", "hits", "cut", "failed")
    table = _table("All questions of each run (%; tool calls per question)", headings)
    for letter, record in zip(_letters(records), records, strict=True):
        result = summarize(record.questions).all_questions
        scores = [f"{100 * one.value:.1f}" for one in (result.exact_match, result.substring_match, result.f1)]
        hits = "-" if result.hit_rate is None else f"{100 * result.hit_rate:.1f}"
        behavior = [f"{result.searches:.2f}", f"{100 * result.valid_action_rate:.1f}", hits]
        table.add_row(letter, str(result.n), *scores, *behavior, f"{100 * result.truncated:.1f}", str(result.failed))
    return table


def paired_table(results: Sequence[PairedDifference], title: str, letter: str) -> Table:
    """Differences over the questions that both answered, in percentage points."""
    table = _table(f"{title} on the same questions (%)", ("data source", "n", "A", letter, "difference (95%)", "p"))
    for one in results:
        low, high = 100 * one.low, 100 * one.high
        table.add_row(
            one.name if one.name not in ("general", "multi-hop", "all") else f"average {one.name}",
            str(one.n),
            f"{100 * one.first:.1f}",
            f"{100 * one.second:.1f}",
            f"{100 * one.difference:+.1f} ({low:+.1f} to {high:+.1f})",
            "< 0.001" if one.p < 0.001 else f"{one.p:.3f}",
        )
    return table


def _show_groups(console: Console, records: Sequence[EvaluationRecord], metric: Metric) -> set[int]:
    """Show means over seeds where a group has several runs.

    Returns:
        Numbers of the runs whose differences by question say no more: those of the first run's own experiment, and all
        where every experiment has several runs.
    """
    groups, runs = _grouped(records, _letters(records))
    if all(len(group.members) == 1 for group in groups):
        return set()
    table = table_of_groups(groups, runs, records, metric, _TITLES[metric])
    title = f"{_TITLES[metric]}, mean over training runs ± half of its 95% interval (%)"
    shown = _table(title, ("", *_last_parts(table.labels), *table.figures))
    for column in shown.columns[-len(table.figures) :]:
        column.no_wrap = True  # a mean, its sign and its interval stay on one line
    for row, (group, names) in enumerate(zip(groups, table.names, strict=True)):
        shown.add_row(", ".join(runs[number].name for number in group.members), *names, *table.cells(row))
    console.print(shown)
    for line in [*seed_notes(groups, runs), *missing_figures(table, groups, runs), *_single(groups, runs)]:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    if any(len(group.members) == 1 for group in groups):
        return {*groups[0].members, *groups[0].repeats}
    console.print("For differences question by question, compare one run of each.", highlight=False)
    return set(range(len(runs)))


def _last_parts(keys: Sequence[str]) -> list[str]:
    """Keys without what stands before their last dot, where that tells them apart."""
    short = [key.rpartition(".")[2] for key in keys]
    return short if len(set(short)) == len(keys) else list(keys)


def _grouped(records: Sequence[EvaluationRecord], names: Sequence[str]) -> tuple[list[SeedGroup], list[SeededRun]]:
    runs = [seeded_run(record, name) for record, name in zip(records, names, strict=True)]
    return group_by_seed(runs), runs


def _single(groups: Sequence[SeedGroup], runs: Sequence[SeededRun]) -> list[str]:
    """Say which experiments have one run, and thus no interval."""
    names = [runs[group.members[0]].name for group in groups if len(group.members) == 1]
    return [f"Without an interval, as they are of one training run each: {', '.join(names)}."] if names else []


def _same_policies(records: Sequence[EvaluationRecord]) -> list[str]:
    """Say which runs measured one and the same policy: what differs between them is not what was trained."""
    runs: dict[Hashable, list[str]] = {}
    for letter, record in zip(_letters(records), records, strict=True):
        runs.setdefault(seeded_run(record, letter).result, []).append(letter)
    found = [" and ".join(letters) for letters in runs.values() if len(letters) > 1]
    return [f"[bold]{letters} measured the same weights[/]: they are one policy." for letters in found]


def _measured_otherwise(groups: Sequence[SeedGroup], records: Sequence[EvaluationRecord]) -> list[int]:
    """Numbers of the first runs of groups that were measured under other conditions than the first one."""
    firsts = [group.members[0] for group in groups[1:]]
    cards = [(number, card_differences([records[0].card, records[number].card])) for number in firsts]
    return [number for number, found in cards if any(one.kind == "condition" for one in found)]


def _table(title: str, headings: Sequence[str]) -> Table:
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, title_justify="left")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number == 0 else "right", overflow="fold")
    return table


def _letters(items: Sequence[Any]) -> list[str]:
    return [chr(ord("A") + number) if number < 26 else f"run {number + 1}" for number in range(len(items))]


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    if re.fullmatch(r"[0-9a-f]{40,}", text):
        return text[:12]
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _said_of(record: EvaluationRecord, path: Path) -> str:
    count = len(list_records(path))
    return f" (the latest of {count} evaluations of {path})" if count > 1 else ""


def _say_conditions(console: Console, differences: Sequence[Difference], letter: str) -> None:
    keys = [one.key for one in differences if one.kind == "condition"]
    if keys:
        named = ", ".join(keys[:3]) + ", ..." * (len(keys) > 3)
        warning = f"[bold]{letter} WAS NOT MEASURED LIKE A[/] ({named})"
        console.print(f"{warning}: what follows is not the difference of their policies alone.", highlight=False)


def _say_unpaired(console: Console, pairs: Pairs, letter: str) -> None:
    parts = [
        f"{pairs.only_first} only in A" * (pairs.only_first > 0),
        f"{pairs.only_second} only in {letter}" * (pairs.only_second > 0),
        f"{pairs.changed} with the same id but another text or gold answers" * (pairs.changed > 0),
    ]
    said = "; ".join(part for part in parts if part)
    if said or not pairs.both:
        count = f"[bold]In both runs: {len(pairs.both)} of the questions[/]"
        console.print(f"{count}; the differences leave out {said or 'nothing'}.", highlight=False)

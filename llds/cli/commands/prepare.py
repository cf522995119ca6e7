"""``llds prepare``: question files of any format, written as one normal form."""

from collections import Counter
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from llds.cli.config.parser import ConfigurationParser, errors_of_constructors
from llds.data.preparation import Preparation, Prepared, prepare_questions

_USAGE = "llds prepare [-c FILE] --train SOURCE --test SOURCE --output FOLDER [--KEY VALUE ...]"
_DESCRIPTION = """\
Write question files of any format as one normal form: checked, filtered, mixed, without repeated questions.

A SOURCE is what `data.train` of a training takes: a file, a record with more settings (see the examples, and
`--train.help llds.data.DataSource`), or a list of them. With weights, the training set is the largest mixture that
repeats no question, or --size questions.

Writes train.jsonl, validation.jsonl and test.jsonl with `id`, `question`, `golden_answers`, `data_source` and
`metadata`, and a manifest.json that names sources, counts, repeated questions and checksums. All files appear together
at the end, or none does."""
_EXAMPLES = """\
examples:
  llds prepare --train train.parquet --test test.jsonl --output data/mine
  llds prepare --train '[{path: nq.jsonl, weight: 2}, {path: hotpot.json, weight: 1}]' --size 10000 \\
      --test test.jsonl --drop_duplicates true --output data/mixed"""


def prepare(args: Sequence[str]) -> None:
    """Read, report and write.

    Args:
        args: Arguments after ``prepare``.

    Raises:
        ConfigurationError: The settings cannot work.
        DataError: A file, or a row of it, cannot be used.
    """
    parser = ConfigurationParser(
        prog="llds prepare", usage=_USAGE, description=_DESCRIPTION, epilog=_EXAMPLES, parser_mode="omegaconf+"
    )
    parser.add_argument("-c", "--config", action="config", help="Configuration file with the keys below.")
    parser.add_class_arguments(Preparation)
    settings = parser.parse_args(list(args))
    with errors_of_constructors():
        values = vars(parser.instantiate(settings))
        preparation = Preparation(**{key: value for key, value in values.items() if key != "config"})
    try:
        prepared = prepare_questions(preparation)
    except KeyboardInterrupt:
        raise SystemExit("llds: interrupted; nothing was written") from None
    _show(Console(highlight=False, soft_wrap=True), prepared, preparation)


def _show(console: Console, prepared: Prepared, preparation: Preparation) -> None:
    """Show what was noticed, which questions are repeated, and what was written."""
    for line in prepared.notes:
        console.print(line, markup=False)
    _show_duplicates(console, prepared.duplicates, preparation.drop_duplicates)
    table = Table("set", "data source", "questions", box=None, header_style="bold")
    for name, part in prepared.prompts.items():
        for data_source, count in Counter(prompt.data_source for prompt in part).items():
            table.add_row(name, data_source, f"{count:,}")
        table.add_row(name, "all", f"{len(part):,}", style="bold")
    console.print(table)
    files = ", ".join(f"{name}.jsonl" for name in prepared.prompts)
    console.print(f"Wrote {files} and manifest.json to {preparation.output}.", markup=False)


def _show_duplicates(console: Console, report: Mapping[str, Mapping[str, int]], dropped: bool) -> None:
    """One line for each pair of sets."""
    for where, found in report.items():
        if found["questions"]:
            others = f", {found['with_other_answers']:,} of them with other answers" * (found["with_other_answers"] > 0)
            console.print(f"repeated {where}: {found['questions']:,} questions{others}" + ", dropped" * dropped)
        else:
            console.print(f"repeated {where}: none")

"""A table for a paper: one column per data source and average, in the order of the papers."""

from llds.evaluation.benchmarks import GENERAL, MULTI_HOP, benchmark_of
from llds.evaluation.intervals import Estimate
from llds.evaluation.summary import Average, SourceResult, Summary


def markdown_table(title: str, summary: Summary) -> str:
    """The numbers as a Markdown table, as shares of 1 with three decimals.

    Args:
        title: Names the row.
        summary: The numbers.
    """
    columns = columns_of(summary)
    names = [column_name(column).replace("|", "\\|") for column in columns]
    rows = [
        ["", *names],
        ["---", *["---:"] * len(columns)],
        [f"{title}: EM", *[_share(column.exact_match) for column in columns]],
        ["95% interval", *[_interval(column.exact_match) for column in columns]],
        ["substring EM", *[_share(column.substring_match) for column in columns]],
        ["F1", *[_share(column.f1) for column in columns]],
        ["n", *[str(column.n) if isinstance(column, SourceResult) else "" for column in columns]],
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def columns_of(summary: Summary) -> list[SourceResult | Average]:
    """The columns of a paper's table: data sources in the order of the papers, then averages."""
    return [*sorted(summary.sources, key=_place), *summary.averages]


def column_name(column: SourceResult | Average) -> str:
    """The heading of a column."""
    if isinstance(column, Average):
        return average_name(column)
    benchmark = benchmark_of(column.name)
    return (GENERAL | MULTI_HOP)[benchmark] if benchmark else column.name


def average_name(average: Average) -> str:
    """The average with the number of its sources, and of how many where some are missing."""
    count = len(average.sources)
    of = f" of {count + len(average.missing)}" if average.missing else ""
    return f"{average.name} ({count}{of})"


def _place(source: SourceResult) -> int:
    order = [*GENERAL, *MULTI_HOP]
    benchmark = benchmark_of(source.name)
    return order.index(benchmark) if benchmark else len(order)


def _share(estimate: Estimate) -> str:
    return f"{estimate.value:.3f}"


def _interval(estimate: Estimate) -> str:
    return f"{estimate.low:.3f}-{estimate.high:.3f}"

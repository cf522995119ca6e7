"""How a framework names our signals, and turning its records into a table."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from llds.monitor import signals as s

Record = Mapping[str, Any]
"""One line of a log, in the framework's names."""
Row = dict[str, float]
"""Signals of one iteration, in our names."""

BROUGHT = {
    name: name
    for name in (
        s.LIKELIHOOD_CORRECT,
        s.LIKELIHOOD_INCORRECT,
        s.PROBE_LIKELIHOOD,
        s.RATIO_MAX,
        s.RATIO_P99,
        s.RATIO_MIN,
        s.DISPLACEMENT_CORRECT,
        s.DISPLACEMENT_INCORRECT,
        s.LLD_RATE,
        s.LLD_MAGNITUDE,
    )
}
"""What `llds.integrations` adds to the logs of other trainers, under our names."""


_IN_ORDER = 10
"""Rows from one restart to the next, at least; a table that goes back more often is in no order."""


def _nothing(record: Mapping[str, float]) -> Row:
    return {}


@dataclass(frozen=True)
class Vocabulary:
    """A framework's names.

    Attributes:
        framework: Its name.
        names: Its metric names to ours; where several stand for one signal, the first that a record has counts.
        steps: Columns that number the iterations, the first that exists counts.
        derive: Signals that need arithmetic, from a record's numbers.
        derived_from: Columns that ``derive`` reads.
        prefixes: That some loggers put before every name.
    """

    framework: str
    names: Mapping[str, str]
    steps: tuple[str, ...] = ("step",)
    derive: Callable[[Mapping[str, float]], Row] = _nothing
    derived_from: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()

    def known(self, columns: Iterable[str]) -> set[str]:
        """Those of the columns that it reads, steps aside."""
        return {
            column
            for column in columns
            if self._plain(column) in self.names or self._plain(column) in self.derived_from
        }

    def signal(self, column: str) -> str | None:
        """The signal that a column is; None for others."""
        return self.names.get(self._plain(column))

    def row(self, record: Record) -> Row:
        """The signals of a record."""
        numbers = {
            self._plain(name): number for name, value in record.items() if (number := as_number(value)) is not None
        }
        row: Row = {}
        for theirs, ours in self.names.items():
            if theirs in numbers:
                row.setdefault(ours, numbers[theirs])
        for ours, value in self.derive(numbers).items():
            row.setdefault(ours, value)
        return row

    def step(self, record: Record) -> float | None:
        """The number of a record's iteration."""
        found = (record[name] for name in self.steps if name in record)
        numbers = (as_number(one.partition("/")[0] if isinstance(one, str) else one) for one in found)  # "3/100"
        return next((number for number in numbers if number is not None and math.isfinite(number)), None)

    def _plain(self, name: str) -> str:
        return next((name.removeprefix(prefix) for prefix in self.prefixes if name.startswith(prefix)), name)


@dataclass(frozen=True)
class MetricTable:
    """A run's metrics, read from whatever held them.

    Attributes:
        path: Where they were read.
        framework: Whose names they had.
        rows: Iteration number and signals, in order.
        ignored: Columns that no signal stands for.
        known: How many columns a signal stands for.
    """

    path: str
    framework: str
    rows: list[tuple[int, Row]]
    ignored: list[str] = field(default_factory=list)
    known: int = 0

    @property
    def signals(self) -> list[str]:
        """The signals that any row has."""
        return sorted({name for _, row in self.rows for name in row})

    @property
    def columns(self) -> int:
        """How many columns the log has."""
        return self.known + len(self.ignored)


def build_table(path: str, records: Sequence[Record], vocabulary: Vocabulary) -> MetricTable:
    """Translate records; those of one step become one row, later values replace earlier ones.

    Frameworks split an iteration over several records (trainer and orchestrator, training and validation), and a
    resumed run writes some steps again.
    """
    steps = set(vocabulary.steps)
    vocabulary = replace(vocabulary, steps=tuple(name for name in vocabulary.steps if not _stands_still(name, records)))
    columns = list(dict.fromkeys(name for record in records for name in record))
    found: list[tuple[int, Row]] = []
    for index, record in enumerate(records):
        row = vocabulary.row(record)
        # Some loggers fill what is missing with NaN, in every column; of a few columns it is news
        is_hole = len(record) == len(columns) or not row
        if not is_hole or any(math.isfinite(value) for value in row.values()):
            step = vocabulary.step(record)
            found.append((index if step is None else int(step), row))
    rows: dict[int, Row] = {}
    restarts = _restarts(found)
    for number, (step, row) in enumerate(found):
        if number in restarts:  # what came after was of a part that is trained again
            rows = {at: one for at, one in rows.items() if at <= step}
        rows.setdefault(step, {}).update(row)
    read = vocabulary.known(columns)
    ignored = [name for name in columns if name not in read | steps]
    return MetricTable(path, vocabulary.framework, sorted(rows.items()), ignored, len(read))


def _restarts(rows: Sequence[tuple[int, Row]]) -> set[int]:
    """Numbers of the rows at which a training begins again at an earlier step; by rewards, which one writer logs."""
    rewarded = [(step, number) for number, (step, row) in enumerate(rows) if s.REWARD in row]
    back = {number for (before, _), (step, number) in pairwise(rewarded) if step < before}
    return back if len(back) <= max(1, len(rewarded) // _IN_ORDER) else set()


def _stands_still(name: str, records: Sequence[Record]) -> bool:
    """Whether a column numbers nothing: it has one value however many records there are."""
    numbers = [record[name] for record in records if name in record]
    return len(numbers) > 2 and len(set(map(str, numbers))) == 1


def as_number(value: Any) -> float | None:
    """A number, or None for anything else; NaN and infinity are numbers: that one was logged is news."""
    if isinstance(value, bool) or value is None or value == "":
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):  # the last of an integer of more than 300 digits
        return None

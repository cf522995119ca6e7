"""What came of the tries of a campaign: outcomes, counted by kind and case, in one file."""

import json
import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import FileLock

from llds.files import write_atomically

STORED = Path(__file__).with_name("results.json")
_NOTES = 5
"""Of what was lost that a case keeps."""


@dataclass(frozen=True)
class Outcome:
    """What came of some tries.

    Attributes:
        case: What was tried, in a few words.
        note: What was lost; empty if all held.
        count: Number of tries that it stands for.
        lost: Those of them that were lost.
    """

    case: str
    note: str = ""
    count: int = 1
    lost: int = field(default=-1)

    def __post_init__(self) -> None:
        if self.lost < 0:
            object.__setattr__(self, "lost", self.count if self.note else 0)


@dataclass
class Count:
    """The tries of a case.

    Attributes:
        tries: Number of them.
        lost: Those that were lost.
        notes: What was lost first.
        seeds: Of the campaigns that tried, as far as they are known.
    """

    tries: int = 0
    lost: int = 0
    notes: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)

    def add(self, other: "Count") -> None:
        """Take other tries in."""
        self.tries += other.tries
        self.lost += other.lost
        self.notes = [*self.notes, *other.notes][:_NOTES]
        self.seeds = sorted({*self.seeds, *other.seeds})


class Table:
    """Counts by kind and case, in the order in which they came."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str], Count] = {}

    def add(self, kind: str, outcome: Outcome, seed: int) -> None:
        """Take an outcome of a kind in, from a campaign with a seed."""
        count = Count(outcome.count, outcome.lost, [outcome.note] * bool(outcome.note), [seed])
        self.counts.setdefault((kind, outcome.case), Count()).add(count)

    def merge(self, other: "Table") -> None:
        """Take the counts of another table in."""
        for place, count in other.counts.items():
            self.counts.setdefault(place, Count()).add(count)

    @property
    def lost(self) -> int:
        """All tries that were lost."""
        return sum(one.lost for one in self.counts.values())

    def lines(self) -> list[str]:
        """As a table of Markdown, sorted, the cases of a kind together."""
        rows = ["| kind | what is done | tries | held | lost |", "| --- | --- | --: | --: | --: |"]
        for (kind, case), one in sorted(self.counts.items()):
            rows.append(f"| {kind} | {case} | {one.tries:,} | {one.tries - one.lost:,} | {one.lost:,} |")
        return rows

    def notes(self) -> Iterable[str]:
        """What was lost."""
        return (f"{kind}, {case}: {note}" for (kind, case), one in self.counts.items() for note in one.notes)

    def save(self, path: Path = STORED) -> None:
        """Write it, sorted, so that the same counts are the same file."""
        rows = [{"kind": kind, "case": case, **asdict(one)} for (kind, case), one in sorted(self.counts.items())]
        with write_atomically(path) as file:
            file.write(json.dumps(rows, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path = STORED) -> "Table":
        """Read what was stored; empty where nothing was."""
        table = cls()
        for row in json.loads(path.read_text()) if path.is_file() else []:
            kind, case = row.pop("kind"), row.pop("case")
            table.counts[kind, case] = Count(**row)
        return table


class Store:
    """A stored table to which outcomes are added as they come; a campaign that is killed loses the last ones at most.

    Several campaigns may add to one file at once.

    Args:
        path: The file; None stores nothing.
        seed: Of the campaign.
        every_s: What comes in so short a time after the last writing waits for the next.
    """

    def __init__(self, path: Path | None, seed: int, every_s: float = 1.0) -> None:
        self._path = path
        self._seed = seed
        self._every_s = every_s
        self._new = Table()
        self._stored_at = -math.inf

    def add(self, kind: str, outcome: Outcome) -> None:
        """Take an outcome of a kind in."""
        self._new.add(kind, outcome, self._seed)
        if time.monotonic() - self._stored_at >= self._every_s:
            self.save()

    def save(self) -> None:
        """Add what came since the last time to the file."""
        if self._path is None:
            return
        with FileLock(self._path.with_name(f".{self._path.name}.lock")):
            table = Table.load(self._path)
            table.merge(self._new)
            table.save(self._path)
        self._new, self._stored_at = Table(), time.monotonic()

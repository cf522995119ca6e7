"""What came of the tries of a campaign: outcomes, counted by kind and case, in one file."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

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
    """The tries of a case."""

    tries: int = 0
    lost: int = 0
    notes: list[str] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Take an outcome in."""
        self.tries += outcome.count
        self.lost += outcome.lost
        if outcome.note:
            self.notes = [*self.notes, outcome.note][:_NOTES]


class Table:
    """Counts by kind and case, in the order in which they came."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str], Count] = {}

    def add(self, kind: str, outcome: Outcome) -> None:
        """Take an outcome of a kind in."""
        self.counts.setdefault((kind, outcome.case), Count()).add(outcome)

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
        path.write_text(json.dumps(rows, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path = STORED) -> "Table":
        """Read what was stored; empty where nothing was."""
        table = cls()
        for row in json.loads(path.read_text()) if path.is_file() else []:
            kind, case = row.pop("kind"), row.pop("case")
            table.counts[kind, case] = Count(**row)
        return table

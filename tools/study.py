"""A study: the recordings of many runs, in one table.

    python tools/study.py pack tools/experiments/records/wide                  # take in the runs that lie loose
    python tools/study.py unpack tests/recordings/prototype runs/prototype     # a file for each run, for llds diagnose

``STUDY.csv.xz`` has a row for each iteration of each run: its name in the column ``run``, then what was recorded, as it
was written, to the digit; a cell is blank where a run did not log the signal. While a study is made, its runs lie loose
in the folder ``STUDY`` beside it, a CSV in gzip each, so that a run is there whole or not at all, whatever stops the
process. ``pack`` takes them into the table. Several processes can add runs and pack at a time.
"""

import argparse
import csv
import fcntl
import gzip
import io
import lzma
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from llds.errors import DataError

RUN = "run"
CAUSE = "cause"
"""Column of the studies whose runs have a known trouble: its name (`llds.monitor.causes`), or "healthy"."""
_TABLE, _LOOSE = ".csv.xz", ".csv.gz"
Cells = dict[str, str]
Runs = dict[str, list[Cells]]


@dataclass(frozen=True)
class Study:
    """The runs of a table, and those that are not in it yet.

    Attributes:
        folder: Of the loose runs; the table is beside it, with this name and ``.csv.xz``.
    """

    folder: Path

    @classmethod
    def at(cls, path: Path) -> "Study":
        """The study of this name, with the table's ending or without."""
        return cls(path.with_name(path.name.removesuffix(_TABLE)))

    @property
    def table(self) -> Path:
        """The file of the packed runs."""
        return self.folder.with_name(self.folder.name + _TABLE)

    def has(self, run: str) -> bool:
        """Whether a run is there, loose or packed."""
        # In this order: packing writes the table first, and then removes the loose file
        return self._loose(run).exists() or (self.table.exists() and run in _names(self.table, _version(self.table)))

    def read(self) -> Runs:
        """The rows of each run, by its name, in the order of the names.

        Raises:
            DataError: If there is no such study, or its table is none.
        """
        loose = self._loose_runs()
        if not loose and not self.table.exists():
            raise DataError(f"Expected a study, got {self.folder}: there is no {self.table.name} beside it.")
        packed = _parse(self.table) if self.table.exists() else {}
        return dict(sorted((packed | {run: _read_loose(path) for run, path in loose.items()}).items()))

    def add(self, run: str, rows: Iterable[Mapping[str, Any]], digits: int = 4) -> None:
        """Keep a run, loose.

        Args:
            run: Its name.
            rows: One per iteration.
            digits: Significant digits of the floats.
        """
        text = _as_csv([{name: _as_text(value, digits) for name, value in row.items()} for row in rows])
        _write_whole(self._loose(run), gzip.compress(text.encode(), mtime=0))

    def pack(self) -> list[str]:
        """Take the loose runs into the table, in place of those of the same name; returns their names."""
        with _alone(self.table.parent):
            loose = self._loose_runs()
            if loose:
                rows = [{RUN: run} | row for run, of_run in self.read().items() for row in of_run]
                _write_whole(self.table, lzma.compress(_as_csv(rows).encode(), preset=9))
            for path in loose.values():
                path.unlink()
            return list(loose)

    def unpack(self, target: Path) -> list[str]:
        """Write a file for each run, into another folder; returns their names."""
        runs = self.read()
        for run, rows in runs.items():
            Study(target).add(run, rows)
        return list(runs)

    def _loose(self, run: str) -> Path:
        return self.folder / f"{run}{_LOOSE}"

    def _loose_runs(self) -> dict[str, Path]:
        return {path.name.removesuffix(_LOOSE): path for path in sorted(self.folder.glob(f"*{_LOOSE}"))}


def _parse(table: Path) -> Runs:
    runs: Runs = {}
    try:
        text = lzma.decompress(table.read_bytes()).decode()
    except (lzma.LZMAError, UnicodeDecodeError) as error:
        raise DataError(f"Expected a table of runs in xz, got {table}: {error}. Check it out again.") from error
    for row in csv.DictReader(io.StringIO(text)):
        if not row.get(RUN):
            raise DataError(f"Expected the name of a run in the column `{RUN}` of every row of {table}, got none.")
        runs.setdefault(row.pop(RUN), []).append(_present(row))
    return runs


def _read_loose(path: Path) -> list[Cells]:
    return [_present(row) for row in csv.DictReader(io.StringIO(gzip.decompress(path.read_bytes()).decode()))]


def _present(row: Cells) -> Cells:
    return {name: value for name, value in row.items() if value}


@lru_cache(maxsize=8)
def _names(table: Path, version: tuple[int, int]) -> frozenset[str]:
    """The runs of a table; read again only where it has changed."""
    return frozenset(_parse(table))


def _version(path: Path) -> tuple[int, int]:
    return path.stat().st_mtime_ns, path.stat().st_ino


def _as_text(value: object, digits: int) -> str:
    if value is None:
        return ""
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def _as_csv(rows: Sequence[Mapping[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _write_whole(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all, whatever stops the process."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process packs into a folder; the lock ends with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def main() -> None:
    """Pack or unpack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, words in (("pack", "take loose runs into the table"), ("unpack", "write a file for each run")):
        command = commands.add_parser(name, help=words)
        command.add_argument("study", type=Path, help="its table, with the ending or without")
    commands.choices["unpack"].add_argument("folder", type=Path, help="of the files")
    options = parser.parse_args()
    study = Study.at(options.study)
    try:
        study.read()  # a name that was misspelled is no empty study
        names = study.pack() if options.command == "pack" else study.unpack(options.folder)
    except DataError as error:
        sys.exit(f"{parser.prog}: {error}")
    print(f"{options.command}ed {len(names)} runs of {study.table}")


if __name__ == "__main__":
    main()

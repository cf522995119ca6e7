"""The command ``python -m tools.campaign``."""

import argparse
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from tools.campaign import bit_flips, disks, extensions, files, kills, load, numbers, pages, protocols, retrievers
from tools.campaign.table import STORED, Outcome, Table

Kind = Callable[[random.Random, Path], Iterator[Outcome]]
KINDS: dict[str, tuple[Kind, float]] = {
    "kills": (kills.tries, 10.0),
    "bit flips": (bit_flips.tries, 2.0),
    "disks": (disks.tries, 3.0),
    "numbers": (numbers.tries, 2.0),
    "tools and rewards": (extensions.tries, 1.0),
    "retrievers": (retrievers.tries, 2.0),
    "protocols": (protocols.tries, 2.0),
    "files": (files.tries, 2.0),
    "pages": (pages.tries, 1.0),
    "load": (load.tries, 1.0),
}
"""What yields outcomes for ever, or until all is tried, and its share of the time, in proportion."""


def run(names: list[str], seconds: float, seed: int, folder: Path, table: Table) -> None:
    """Run kinds, each for its share of what is left of the time, and at least until its first outcome."""
    end = time.monotonic() + seconds
    for number, name in enumerate(names):
        kind, weight = KINDS[name]
        left = sum(KINDS[later][1] for later in names[number:])
        until = time.monotonic() + max(0.0, end - time.monotonic()) * weight / left
        place = folder / name.replace(" ", "_")
        place.mkdir()
        _spend(name, kind(random.Random(f"{name} {seed}"), place), until, table)  # noqa: S311


def _spend(name: str, outcomes: Iterator[Outcome], until: float, table: Table) -> None:
    """Count outcomes until a moment; what the campaign itself did not expect is lost, and not passed over."""
    started, tries = time.monotonic(), 0
    try:
        for outcome in outcomes:
            table.add(name, outcome)
            tries += outcome.count
            if outcome.note:
                print(f"LOST {name}, {outcome.case}: {outcome.note}", flush=True)
            if time.monotonic() >= until:
                break
    except Exception:  # a fault that nothing foresaw
        table.add(name, Outcome("what nothing foresaw", traceback.format_exc().strip().splitlines()[-1]))
        traceback.print_exc()
    outcomes.close()  # type: ignore[attr-defined]
    print(f"{name}: {tries:,} tries in {time.monotonic() - started:.0f} s", flush=True)


def parse() -> argparse.Namespace:
    """Read the arguments."""
    parser = argparse.ArgumentParser("python -m tools.campaign", description="Break runs on purpose.")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all kinds together")
    parser.add_argument("--seed", type=int, default=0, help="equal ones try the same")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), help="default: all")
    parser.add_argument("--folder", type=Path, help="for what the runs write; default: a temporary one")
    parser.add_argument("--store", type=Path, default=None, help="file for the table")
    parser.add_argument("--add", action="store_true", help=f"add to what is stored in {STORED.name}")
    parser.add_argument("--page", action="store_true", help="print the stored table and end")
    return parser.parse_args()


def main() -> None:
    """Run the campaign; print, and store, what came of it."""
    options = parse()
    if options.page:
        print("\n".join(Table.load(options.store or STORED).lines()))
        return
    store = options.store or (STORED if options.add else None)
    with tempfile.TemporaryDirectory(prefix="campaign-") as temporary:
        folder, table = options.folder or Path(temporary), Table()
        folder.mkdir(parents=True, exist_ok=True)
        run(options.kinds, options.minutes * 60, options.seed, folder, table)
    print("\n".join(table.lines()))
    if store is not None:
        stored = Table.load(store) if options.add else Table()
        for (kind, case), one in table.counts.items():
            stored.add(kind, Outcome(case, count=one.tries, lost=one.lost))
            stored.counts[kind, case].notes += one.notes
        stored.save(store)
    sys.exit(1 if table.lost else 0)


if __name__ == "__main__":
    main()

"""The command ``python -m tools.campaign``."""

import argparse
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from tools.campaign import bit_flips, disks, extensions, files, kills, load, numbers, pages, protocols, retrievers
from tools.campaign.table import STORED, Outcome, Store, Table

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


class Campaign:
    """Runs kinds one after another, counts what came of them, and stores it as it comes.

    Args:
        kinds: What is tried, as `KINDS`.
        seed: Equal ones try the same.
        store: File of a table that is added to; None stores nothing.
    """

    def __init__(self, kinds: dict[str, tuple[Kind, float]], seed: int, store: Path | None = None) -> None:
        self.table = Table()
        self._kinds = kinds
        self._seed = seed
        self._store = Store(store, seed)

    def run(self, seconds: float, folder: Path) -> None:
        """Run each kind for its share of what is left of the time, and at least until its first outcome."""
        end = time.monotonic() + seconds
        weights = [weight for _, weight in self._kinds.values()]
        for number, (name, (kind, weight)) in enumerate(self._kinds.items()):
            until = time.monotonic() + max(0.0, end - time.monotonic()) * weight / sum(weights[number:])
            place = folder / name.replace(" ", "_")
            place.mkdir()
            self._spend(name, kind(random.Random(f"{name} {self._seed}"), place), until)  # noqa: S311

    def _spend(self, name: str, outcomes: Iterator[Outcome], until: float) -> None:
        """Count outcomes until a moment; what the campaign itself did not expect is lost, and not passed over."""
        started, tries = time.monotonic(), 0
        try:
            for outcome in outcomes:
                self._count(name, outcome)
                tries += outcome.count
                if time.monotonic() >= until:
                    break
        except Exception:  # a fault that nothing foresaw
            self._count(name, Outcome("what nothing foresaw", traceback.format_exc().strip().splitlines()[-1]))
            traceback.print_exc()
        outcomes.close()  # type: ignore[attr-defined]
        self._store.save()
        print(f"{name}: {tries:,} tries in {time.monotonic() - started:.0f} s", flush=True)

    def _count(self, name: str, outcome: Outcome) -> None:
        self.table.add(name, outcome, self._seed)
        self._store.add(name, outcome)
        if outcome.note:
            print(f"LOST {name}, {outcome.case}: {outcome.note}", flush=True)


def parse() -> argparse.Namespace:
    """Read the arguments."""
    parser = argparse.ArgumentParser("python -m tools.campaign", description="Break runs on purpose.")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all kinds together")
    parser.add_argument("--seed", type=int, default=0, help="equal ones try the same")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), help="default: all")
    parser.add_argument("--cases", nargs="+", choices=list(kills.CASES), help="of the kills; default: all")
    parser.add_argument("--folder", type=Path, help="for what the runs write; default: a temporary one")
    parser.add_argument("--store", type=Path, default=None, help="file for the table, written as it grows")
    parser.add_argument("--add", action="store_true", help=f"add to what is stored in {STORED.name}")
    parser.add_argument("--page", action="store_true", help="print the stored table and end")
    return parser.parse_args()


def begin(store: Path | None, adds: bool, kinds: Sequence[str], seed: int) -> None:
    """Prepare the file for the table: empty, or with counts to which no campaign with this seed has added."""
    if store is None:
        return
    if not adds:
        Table().save(store)
    for (kind, case), one in Table.load(store).counts.items():
        if kind in kinds and seed in one.seeds:
            sys.exit(f"Expected a seed that {store.name} has not counted, got {seed} ({kind}, {case}). Name another.")


def main() -> None:
    """Run the campaign; print, and store, what came of it."""
    options = parse()
    if options.page:
        print("\n".join(Table.load(options.store or STORED).lines()))
        return
    store = options.store or (STORED if options.add else None)
    begin(store, options.add, options.kinds, options.seed)
    kinds = {name: KINDS[name] for name in options.kinds}
    if options.cases and "kills" in kinds:
        kinds["kills"] = (partial(kills.tries, cases=options.cases), KINDS["kills"][1])
    campaign = Campaign(kinds, options.seed, store)
    with tempfile.TemporaryDirectory(prefix="campaign-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        campaign.run(options.minutes * 60, folder)
    print("\n".join(campaign.table.lines()))
    sys.exit(1 if campaign.table.lost else 0)


if __name__ == "__main__":
    main()

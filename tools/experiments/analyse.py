"""Recompute every table and figure of docs/experiments.md, docs/cures.md and docs/choosing.md from the records.

    python -m tools.experiments.analyse              # rewrite them
    python -m tools.experiments.analyse --check      # say whether the tables are those of the records
    python -m tools.experiments.analyse --print      # print the tables only

A table stands in the page between ``<!-- NAME -->`` and ``<!-- /NAME -->``. Figures need matplotlib; without it they
are left as they are.
"""

import argparse
import re
import sys
from pathlib import Path

from tools.experiments.cures import tables as cures
from tools.experiments.tables import TABLES as STUDIES

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [DOCS / "experiments.md", DOCS / "choosing.md", DOCS / "cures.md"]
TABLES = STUDIES | cures.TABLES
_BLOCK = re.compile(r"<!-- (?P<name>[\w-]+) -->\n.*?<!-- /(?P=name) -->", re.DOTALL)


def with_tables(text: str) -> str:
    """The page with its tables computed anew."""

    def block(match: re.Match[str]) -> str:
        name = match["name"]
        return f"<!-- {name} -->\n{TABLES[name]()}<!-- /{name} -->"

    return _BLOCK.sub(block, text)


def main() -> None:
    """Rewrite, check or print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--print", action="store_true", dest="is_printed")
    arguments = parser.parse_args()
    if arguments.is_printed:
        print("\n".join(f"## {name}\n\n{table()}" for name, table in TABLES.items()))
        return
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if arguments.check and with_tables(text) != text:
            sys.exit(f"Expected the tables of {page.name} to be those of the records. Run tools.experiments.analyse.")
        if not arguments.check:
            page.write_text(with_tables(text), encoding="utf-8")
    if not arguments.check:
        _draw()


def _draw() -> None:
    try:
        from tools.experiments.figures import write_figures
    except ImportError as error:
        print(f"Figures are left as they are: {error}. pip install -e '.[experiments]'")
    else:
        write_figures(DOCS / "experiments")


if __name__ == "__main__":
    main()

"""Pack runs into compact recordings for tests: the signals that the detector reads, with three significant digits.

    python tools/pack_recordings.py ../shared/runs --output tests/recordings/prototype

Reads whatever `llds diagnose` reads; adds the runs to a study (`study.py`), a few KB each, with the cause of a run's
trouble where its configuration tells it.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluate_detector import known_cause, name_of
from study import CAUSE, Study

from llds.monitor import read_metrics
from llds.monitor.detector import SIGNALS_READ

DIGITS = 3


def compact(rows: Sequence[tuple[int, Mapping[str, float]]], cause: str | None) -> Iterator[dict[str, Any]]:
    """The rows with what the detector reads."""
    for iteration, row in rows:
        signals = {name: row[name] for name in SIGNALS_READ if name in row}
        yield {CAUSE: cause, "iteration": iteration} | signals


def main() -> None:
    """Pack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of runs")
    parser.add_argument("--output", type=Path, required=True, help="the study")
    options = parser.parse_args()
    study = Study.at(options.output)
    for path in sorted(options.folder.iterdir()):
        if path.name != "README.md":
            study.add(name_of(path), compact(read_metrics(path).rows, known_cause(path)), DIGITS)
    study.pack()


if __name__ == "__main__":
    main()

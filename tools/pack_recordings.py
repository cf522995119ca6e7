"""Pack runs into compact recordings for tests: the signals that the detector reads, with three significant digits.

    python tools/pack_recordings.py ../shared/runs --output tests/recordings/prototype

Reads whatever `llds diagnose` reads; writes a CSV in gzip for each run, a few KB; into a folder named after the cause
of its trouble where the run's configuration tells it.
"""

import argparse
import csv
import gzip
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from evaluate_detector import known_cause, name_of

from llds.monitor import read_metrics
from llds.monitor.detector import SIGNALS_READ

Rows = Sequence[tuple[int, Mapping[str, float]]]


def pack(rows: Rows) -> bytes:
    """The rows as a CSV in gzip; the same bytes for the same rows."""
    present = {name for _, row in rows for name in row}
    names = [name for name in SIGNALS_READ if name in present]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["iteration", *names])
    for iteration, row in rows:
        writer.writerow([iteration, *(f"{row[name]:.3g}" if name in row else "" for name in names)])
    return gzip.compress(text.getvalue().encode(), mtime=0)


def main() -> None:
    """Pack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of runs")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    for path in sorted(options.folder.iterdir()):
        if path.name != "README.md":
            home = options.output / (known_cause(path) or "")
            home.mkdir(exist_ok=True)
            (home / f"{name_of(path)}.csv.gz").write_bytes(pack(read_metrics(path).rows))


if __name__ == "__main__":
    main()

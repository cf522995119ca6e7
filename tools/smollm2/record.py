"""Keep the signals of trainings of `conf/smollm2_search.yaml` where the figure of docs/pretrained_models.md reads them.

    python -m tools.smollm2.record runs/smollm2-search "lambda 0.2, seed 0"
    python -m tools.experiments.analyse       # draws docs/experiments/smollm2.png anew, from what is kept

A run of the same name is replaced.
"""

import argparse

from llds.monitor.sources.find import read_metrics
from tools.experiments.recording import RECORDS
from tools.study import Study

STUDY = Study(RECORDS / "smollm2")


def main() -> None:
    """Keep one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of the run")
    parser.add_argument("name", help="of the run in the figure")
    options = parser.parse_args()
    rows = read_metrics(options.run).rows
    kept = [{name: value for name, value in row.items() if not name.startswith("time/")} for _, row in rows]
    STUDY.add(options.name, [{"iteration": at} | row for (at, _), row in zip(rows, kept, strict=True)])
    STUDY.pack()
    print(f"{options.name}: {len(rows)} iterations in {STUDY.table.name}")


if __name__ == "__main__":
    main()

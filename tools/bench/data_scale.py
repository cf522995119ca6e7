"""How long a training set takes from its file to the first batch, and how much memory.

python tools/bench/data_scale.py data/train/r1searcher_stage_2.jsonl --rows 2000000

Writes a file of as many rows as asked for, with ids of their own, made of the questions of the given one; then sets up
a data module in a process of its own and takes its first batch. Prints seconds (of the clock and of the processor), and
the peak of memory beside what the libraries take before any data is read.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

from llds.files import read_rows


def write(source: str, path: Path, rows: int) -> None:
    """Write the training set."""
    questions = [row.values for row in read_rows(source)]
    with path.open("w", encoding="utf-8") as file:
        for number, row in enumerate(islice(cycle(questions), rows)):
            values = {"id": f"train_{number}", "question": row["question"], "golden_answers": [row["answer"]]}
            file.write(json.dumps({**values, "level": "hard"}) + "\n")


def peak_mib() -> int:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def measure(path: str) -> None:
    """Take the first batch of a training set."""
    from llds.data import PromptDataModule
    from llds.modules.policy.tokenizer import load_tokenizer

    data = PromptDataModule(train=path, batch_size=512)
    data.tokenizer = load_tokenizer("llds:quickstart/policy")
    before = peak_mib()
    clock, processor = time.perf_counter(), time.process_time()
    data.setup("fit")
    read_s = time.perf_counter() - clock
    batch = next(iter(data.train_dataloader()))
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    print(f"{len(data.prompts['train']):,} rows, {len(batch)} prompts in the first batch")
    print(f"read {read_s:.1f} s, first batch after {clock:.1f} s ({processor:.1f} s of the processor)")
    print(f"peak memory {peak_mib():,} MiB, {before:,} MiB of it before the data")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path")
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--measure", action="store_true", help="measure the file as it is, in this process")
    args = parser.parse_args()
    if args.measure:
        measure(args.path)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.jsonl"
        write(args.path, path, args.rows)
        print(f"a file of {path.stat().st_size >> 20:,} MiB")
        subprocess.run([sys.executable, __file__, str(path), "--measure"], check=True)


if __name__ == "__main__":
    main()

"""The quickstart in one process and in two with ZeRO-3: seconds per iteration, and exact match on test questions.

    python tools/bench/training/zero3.py --iterations 10 --questions 200

Runs one after the other on this machine and prints the ratio. Each process has one thread. On a CPU every parameter is
gathered anew for every forward, so the ratio says what the machinery costs, not what GPUs gain. Exact match may differ
by chance: sums of floating-point numbers are taken in another order, and sampling amplifies that.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean, median

import yaml

ROOT = Path(__file__).parents[3]


def run(command: str, folder: Path, overlays: list[Path], *options: str) -> None:
    """Run llds in the project's folder; one thread per process, so that both runs use cores alike."""
    files = [part for path in (ROOT / "conf" / "quickstart.yaml", *overlays) for part in ("-c", str(path))]
    arguments = [sys.executable, "-m", "llds", command, *files, "--trainer.default_root_dir", str(folder), *options]
    done = subprocess.run(
        arguments, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{' '.join(arguments)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def iteration_s(folder: Path) -> float:
    """Median seconds of rollout, scoring and update, without the first iteration."""
    [path] = (folder / "csv").glob("*/metrics.csv")
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("time/update_s")]
    return median(sum(float(row[f"time/{phase}_s"]) for phase in ("rollout", "score", "update")) for row in rows[1:])


def exact_match(folder: Path, questions: Path) -> float:
    """Exact match of the exported policy on test questions, in one process, in percent."""
    run("test", folder / "test", [questions], "--model.policy", str(folder / "policy"))
    [path] = (folder / "test" / "evaluation").glob("*/questions.jsonl")
    return 100 * mean(json.loads(line)["exact_match"] for line in path.read_text().splitlines())


def main() -> None:
    """Run both and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--questions", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        questions = folder / "questions.yaml"
        source = {"path": "llds:quickstart/test.jsonl", "limit": options.questions}
        questions.write_text(yaml.safe_dump({"data": {"init_args": {"test": source}}}))
        settings = ["--data.iterations", str(options.iterations), "--rollout.seed", str(options.seed)]
        settings += ["--retrieval.retriever.path", str(folder / "index")]
        seconds, matches = {}, {}
        for kind, overlays in (("one", []), ("two", [ROOT / "conf" / "trainer" / "cpu_zero3.yaml"])):
            run("fit", folder / kind, overlays, *settings)
            seconds[kind] = iteration_s(folder / kind)
            matches[kind] = exact_match(folder / kind, questions)
            print(
                f"{kind} process(es): {seconds[kind]:.2f} s per iteration, exact match {matches[kind]:.1f}%", flush=True
            )
        print(
            f"after {options.iterations} iterations: time ratio {seconds['two'] / seconds['one']:.2f}, "
            f"exact match {matches['two'] - matches['one']:+.1f} points on {options.questions} questions"
        )


if __name__ == "__main__":
    main()

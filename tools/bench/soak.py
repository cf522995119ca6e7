"""Does a run of thousands of iterations stay the size that it is? Memory, open files and threads of a tiny training.

Run from the repository root (about ten minutes on an idle core)::

    python tools/bench/soak.py
    python tools/bench/soak.py --iterations 500 -- --rollout.overlap true     # settings of llds fit

The quickstart, made small: 2 prompts x 4 trajectories, a random policy of one layer. Whatever it writes is taken for a
search, now and then for an answer, and rewards are drawn; the rest is real (sampler, searches in Chroma, updates,
loggers, trajectory log, report, checkpoints, early warning). Prints what the process holds along the run, and the slope
of resident memory over the second half, by least squares. Exit status 1 where memory grows by more than 1 MB per 100
iterations, or files or threads grow at all.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llds.modules.policy.tokenizer import load_tokenizer
from llds.rewards import Reward
from llds.rollout import TagProtocol
from llds.types import Action, Trajectory

_MIB = 1 << 20
_LIMIT_MIB = 1.0
_OVERLAY = """\
trainer:
  default_root_dir: {root}
  callbacks:
    - class_path: llds.callbacks.IterationCheckpoint
      init_args: {{every_n_iterations: 100}}
    - class_path: llds.callbacks.TrajectoryLog
    - class_path: llds.callbacks.RunReport
      init_args: {{every_n_iterations: 250}}
    - class_path: tools.bench.soak.Footprint
      init_args: {{path: {table}, every_n_iterations: {every}}}
  enable_progress_bar: false
model:
  init_args:
    policy: {policy}
    protocol: {{class_path: tools.bench.soak.EverythingSearches}}
    optimization: {{mini_batch_size: 1, learning_rate: 1.0e-6}}
data: {{init_args: {{iterations: {iterations}, batch_size: 2}}}}
rollout:
  group_size: 4
  reward: {{class_path: tools.bench.soak.Coin}}
  limits: {{action_tokens: 6, observation_tokens: 96, total_tokens: 256, turns: 2}}
"""


class EverythingSearches(TagProtocol):
    """Takes each action for a search for what it says, and each third for an answer."""

    def parse(self, text: str, tool_names: Sequence[str]) -> Action:
        """Read an action."""
        kind = zlib.crc32(text.encode("utf-8", "replace")) % 3
        return Action("tool", "search", f"{text} .") if kind else Action("answer", "", text)


class Coin(Reward):
    """Right or wrong by the tokens of the trajectory."""

    correct_from = 1.0

    def __call__(self, trajectory: Trajectory) -> float:
        """Score."""
        return float(sum(trajectory.token_ids) % 2)


class Footprint(pl.Callback):
    """Writes a row of what the process holds, every few iterations.

    Args:
        path: CSV file to write.
        every_n_iterations: Iterations between two rows.
    """

    def __init__(self, path: str, every_n_iterations: int) -> None:
        self.path = Path(path)
        self.every_n_iterations = every_n_iterations
        self.started = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """Measure."""
        if pl_module.iteration % self.every_n_iterations == 0:
            row = (
                pl_module.iteration,
                resident_bytes() / _MIB,
                len(os.listdir("/proc/self/fd")),
                threading.active_count(),
                time.perf_counter() - self.started,
            )
            with self.path.open("a") as file:
                file.write(",".join(f"{value:g}" for value in row) + "\n")


def resident_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def make_policy(folder: Path) -> Path:
    """Write a random policy of one layer with the tokenizer of the shipped one."""
    tokenizer = load_tokenizer("llds:quickstart/policy")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        initializer_range=0.1,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    tokenizer.save_pretrained(folder)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def train(options: argparse.Namespace, folder: Path) -> np.ndarray:
    """Run ``llds fit`` in a process of its own and return its rows: iteration, MiB, files, threads, seconds."""
    table, overlay = folder / "footprint.csv", folder / "overlay.yaml"
    every = max(1, options.iterations // 40)
    policy = make_policy(folder / "policy")
    values = {"root": folder / "run", "table": table, "every": every, "iterations": options.iterations}
    overlay.write_text(_OVERLAY.format(policy=policy, **values))
    index = ["--retrieval.retriever.path", str(options.index or folder / "index")]
    command = [sys.executable, "-m", "llds", "fit", "-c", options.config, "-c", str(overlay), *index, *options.settings]
    with (folder / "log").open("w") as log:
        status = subprocess.run(command, stdout=log, stderr=log, check=False).returncode
    if status:
        sys.exit(f"The run failed:\n{(folder / 'log').read_text()[-3000:]}")
    with table.open() as file:
        return np.array([[float(value) for value in row] for row in csv.reader(file)])


def main() -> None:
    """Train, then print and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--config", default="conf/quickstart.yaml")
    parser.add_argument("--index", type=Path, help="the retriever's index; default: built anew")
    parser.add_argument("--folder", type=Path, help="where to keep the run; default: nowhere")
    parser.add_argument("settings", nargs="*", help="settings of llds fit, after --")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        rows = train(options, folder.absolute())
    print(f"{'iteration':>10} {'MiB':>8} {'files':>6} {'threads':>8} {'s':>8}")
    for row in rows[:: max(1, len(rows) // 20)]:
        print(f"{row[0]:10.0f} {row[1]:8.1f} {row[2]:6.0f} {row[3]:8.0f} {row[4]:8.0f}")
    second = rows[len(rows) // 2 :]
    slope = 100 * float(np.polyfit(second[:, 0], second[:, 1], 1)[0]) * _MIB / 1e6
    first = rows[: len(rows) // 2]
    files, threads = (second[:, column].max() - first[:, column].max() for column in (2, 3))
    print(f"second half: {slope:+.3f} MB of memory per 100 iterations; files {files:+.0f}, threads {threads:+.0f}")
    sys.exit(int(slope > _LIMIT_MIB or files > 0 or threads > 0))


if __name__ == "__main__":
    main()

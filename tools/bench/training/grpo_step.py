"""A whole GRPO step (rollout, reward, scoring, update) of llds and of TRL side by side: ratio of their times.

TRL lives in an environment of its own; make one and name its interpreter (no other package of llds is touched)::

    python3 -m venv ~/trl && ~/trl/bin/pip install torch==2.13.0+cpu trl==1.16.0 jmespath
    python tools/bench/training/grpo_step.py --trl ~/trl/bin/python

Both train the same random Qwen2 on the same prompts with groups of the same size, the same number of new tokens, KL
coefficient 0.001, one optimizer step per iteration, fp32, no tool call; they take turns, step by step, so that what
else runs on the machine slows both. Three cases: short prompts; prompts with a tool's description, given to TRL as its
`tools`; and the same prompts, given to TRL as plain text. The first step of each is a warm-up. Printed: medians and
spread of processor seconds and of wall seconds per step, and the median of the ratios of neighbouring steps.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from llds.callbacks import CollapseMonitor, IterationSignals, RolloutCallback
from llds.data import DataSource, PromptDataModule, PromptTemplate
from llds.losses import KLPenalty
from llds.modules import Optimization, SearchAgentModule
from llds.modules.policy.tokenizer import load_tokenizer
from llds.rewards import Reward
from llds.rollout import EpisodeLimits
from llds.types import Trajectory

TOKENIZER = "llds:quickstart/policy"
QUESTIONS = ["What is the capital of Norway?", "What is the demonym of Ghana?", "In which country is Graz?"]
Steps = dict[str, list[dict[str, float]]]


class FirstTokenIsOdd(Reward):
    """The reward of both sides: it tells the trajectories of a group apart."""

    correct_from = 1.0

    def __call__(self, trajectory: Trajectory) -> float:
        """Score."""
        return float(trajectory.turns[0].action_ids[0] % 2)


class Paced(pl.Callback):
    """Waits before each iteration and reports after it. First and last of the callbacks: two objects, one clock."""

    started = (0.0, 0.0)

    def __init__(self, is_first: bool) -> None:
        self.is_first = is_first

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Wait."""
        if self.is_first:
            sys.stdin.readline()
            Paced.started = (time.perf_counter(), time.process_time())

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Report."""
        if not self.is_first:
            wall, cpu = time.perf_counter() - Paced.started[0], time.process_time() - Paced.started[1]
            tokens = sum(len(turn.action_ids) for trajectory in batch.trajectories for turn in trajectory.turns)
            sys.__stdout__.write("@" + json.dumps({"wall": wall, "cpu": cpu, "tokens": tokens}) + "\n")  # type: ignore[union-attr]
            sys.__stdout__.flush()  # type: ignore[union-attr]


def train(settings: dict[str, Any]) -> None:
    """The side of llds."""
    prompts = Path(settings["scratch"]) / "prompts.jsonl"
    rows = [{"question": prompt, "golden_answers": ["x"]} for prompt in settings["prompts"]]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows * settings["steps"]))
    limits = EpisodeLimits(action_tokens=settings["new_tokens"], total_tokens=4096, turns=0)
    module = SearchAgentModule(
        settings["policy"],
        kl_penalty=KLPenalty(0.001),
        optimization=Optimization(
            learning_rate=1e-4, mini_batch_size=len(rows), micro_batch_size=len(rows) * settings["group"]
        ),
    )
    data = PromptDataModule(
        train=DataSource(str(prompts)), batch_size=len(rows), iterations=settings["steps"], shuffle=False,
        template=PromptTemplate("{question}"), max_prompt_tokens=2048,
    )  # fmt: skip
    trainer = pl.Trainer(
        default_root_dir=settings["scratch"], accelerator="cpu", max_epochs=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        callbacks=[
            Paced(is_first=True),
            IterationSignals(),
            RolloutCallback(settings["group"], reward=FirstTokenIsOdd(), limits=limits),
            CollapseMonitor(),
            Paced(is_first=False),
        ],
    )  # fmt: skip
    trainer.fit(module, datamodule=data)


class Side:
    """One of the two, in a process of its own."""

    def __init__(self, command: list[str], threads: int) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def step(self) -> dict[str, float]:
        """Let it take a step."""
        assert self._process.stdin is not None  # noqa: S101 (opened above)
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self.read()

    def read(self) -> dict[str, Any]:
        """Its next report."""
        assert self._process.stdout is not None  # noqa: S101 (opened above)
        for line in self._process.stdout:
            if line.startswith("@"):
                report: dict[str, Any] = json.loads(line[1:])
                return report
        raise RuntimeError(f"Expected a report from {self._process.args!r}, got its end. Run it by itself.")

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


def compare(settings: dict[str, Any], for_trl: dict[str, Any], for_llds: dict[str, Any], trl: str) -> Steps:
    """Let both take their steps in turns; the first of each does not count."""
    trl_script = str(Path(__file__).with_name("trl_step.py"))
    sides = {
        "trl": Side([trl, trl_script, json.dumps(settings | for_trl)], settings["threads"]),
        "llds": Side([sys.executable, __file__, "--settings", json.dumps(settings | for_llds)], settings["threads"]),
    }
    taken: Steps = {name: [] for name in sides}
    try:
        for _ in range(settings["steps"]):
            for name, side in sides.items():
                taken[name].append(side.step())
    finally:
        for side in sides.values():
            side.close()
    return {name: steps[1:] for name, steps in taken.items()}


def line(name: str, prompt_tokens: int, taken: Steps) -> str:
    """A row of the table."""
    cells = [name, f"{prompt_tokens}"]
    for key in ("cpu", "wall"):
        for side in ("trl", "llds"):
            values = [step[key] for step in taken[side]]
            cells.append(f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})")
        ratios = [one[key] / other[key] for one, other in zip(taken["trl"], taken["llds"], strict=True)]
        cells.append(f"**{statistics.median(ratios):.2f}**")
    cells.append("/".join(f"{statistics.mean(step['tokens'] for step in taken[side]):.0f}" for side in ("trl", "llds")))
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl", help="the interpreter of an environment with trl==1.16.0")
    parser.add_argument("--cases", nargs="+", default=["plain", "tools", "text"])
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--steps", type=int, default=8, help="the first is a warm-up")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--settings", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.settings:
        settings = json.loads(arguments.settings)
        torch.set_num_threads(settings["threads"])
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for the whole life of the process)
        train(settings)
        return
    tokenizer = load_tokenizer(TOKENIZER)
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        config = Qwen2Config(
            vocab_size=len(tokenizer), hidden_size=arguments.hidden, intermediate_size=2 * arguments.hidden,
            num_hidden_layers=arguments.layers, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
        )  # fmt: skip
        Qwen2ForCausalLM(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        short = [f"Question: {question}\n" for question in QUESTIONS[: arguments.prompts]]
        settings = {
            "policy": folder,
            "scratch": folder,
            "prompts": short,
            "group": arguments.group,
            "new_tokens": arguments.new_tokens,
            "steps": arguments.steps,
            "threads": arguments.threads,
            "tools": False,
        }
        script = str(Path(__file__).with_name("trl_step.py"))
        rendering = Side([arguments.trl, script, json.dumps(settings), "--render"], 1)
        rendered = rendering.read()["prompts"]
        rendering.close()
        cases: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
            "plain": ({"prompts": short}, {"prompts": short}),
            "tools": ({"prompts": short, "tools": True}, {"prompts": rendered}),
            "text": ({"prompts": rendered}, {"prompts": rendered}),
        }
        size = f"{arguments.prompts} prompts x {arguments.group}, {arguments.new_tokens} new tokens"
        print(f"{size}, {arguments.threads} threads, load {os.getloadavg()[0]:.1f}")
        print(
            "| case | prompt tokens | TRL cpu s | llds cpu s | ratio | TRL wall s | llds wall s | ratio | new tokens |"
        )
        print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
        for case in arguments.cases:
            for_trl, for_llds = cases[case]
            taken = compare(settings, for_trl, for_llds, arguments.trl)
            prompt_tokens = len(tokenizer.encode(for_llds["prompts"][0], add_special_tokens=False))
            print(line(case, prompt_tokens, taken), flush=True)


if __name__ == "__main__":
    main()

"""How an iteration's time grows: processor seconds as prompts, turns, observation length and model size double.

    python tools/bench/training/growth.py

Whole iterations of a random Qwen2 (hidden 128, 4 layers), all real but the protocol, which reads every action as a
search, so that lengths are the same in every trajectory. One setting changes at a time; the exponent is the slope of
log seconds against log setting (1 is linear, 0 is no growth), over the doublings of the setting. Printed for the whole
iteration and for its parts. The first iteration of each run is a warm-up.
"""

import argparse
import math
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import lightning.pytorch as pl
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from llds.agent_tools import AgentTool
from llds.callbacks import CollapseMonitor, IterationSignals, RolloutCallback
from llds.data import PromptDataModule, PromptTemplate
from llds.losses import KLPenalty, LLDSPenalty
from llds.modules import Optimization, SearchAgentModule
from llds.modules.policy.tokenizer import load_tokenizer
from llds.rewards import Reward
from llds.rollout import EpisodeLimits, TagProtocol
from llds.types import Action, ToolResult, Trajectory

TOKENIZER = "llds:quickstart/policy"
PARTS = ("rollout", "score", "update", "iteration")


@dataclass(frozen=True)
class Setting:
    """Of a run; `hidden` doubles the width, and so quadruples the weights of a layer."""

    prompts: int = 4
    turns: int = 2
    observation: int = 64
    hidden: int = 128


class EverySearch(TagProtocol):
    """Reads every action as a search for its own text."""

    def parse(self, text: str, tool_names: Sequence[str]) -> Action:
        """Read an action."""
        return Action("tool", "search", text or "x")


class Passages(AgentTool):
    """Answers each search with another text of so many tokens."""

    name = "search"
    description = "Finds passages."

    def __init__(self, tokens: int) -> None:
        tokenizer = load_tokenizer(TOKENIZER)
        self._decode: Any = tokenizer.decode
        self._tokens = tokens

    async def run(self, argument: str) -> ToolResult:
        """Answer."""
        start = sum(argument.encode()) % 7000
        text: str = self._decode([300 + (start + 13 * place) % 7000 for place in range(self._tokens)])
        return ToolResult(text, ("d",))


class ByFirstToken(Reward):
    """Tells the trajectories of a group apart."""

    correct_from = 1.0

    def __call__(self, trajectory: Trajectory) -> float:
        """Score."""
        return float(trajectory.turns[0].action_ids[0] % 2)


def timed(seconds: dict[str, float], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with its processor seconds added up."""

    def run(*arguments: Any, **named: Any) -> Any:
        started = time.process_time()
        try:
            return function(*arguments, **named)
        finally:
            seconds[name] += time.process_time() - started

    return run


class Clock(pl.Callback):
    """Processor seconds of each iteration."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds
        self.rows: list[dict[str, float]] = []

    def on_train_batch_start(self, *_: Any) -> None:
        """Begin."""
        self.seconds.clear()
        self.started = time.process_time()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """End."""
        total = time.process_time() - self.started
        length = mean(len(trajectory.token_ids) for trajectory in batch.trajectories)
        self.rows.append({**self.seconds, "iteration": total, "length": length})


def run(setting: Setting, iterations: int) -> dict[str, float]:
    """Median processor seconds of the parts of an iteration, and the mean length of a trajectory."""
    tokenizer = load_tokenizer(TOKENIZER)
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        config = Qwen2Config(
            vocab_size=len(tokenizer), hidden_size=setting.hidden, intermediate_size=2 * setting.hidden,
            num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
        )  # fmt: skip
        Qwen2ForCausalLM(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        limits = EpisodeLimits(
            action_tokens=16, observation_tokens=2 * setting.observation + 32, total_tokens=8192, turns=setting.turns
        )
        module = SearchAgentModule(
            folder,
            kl_penalty=KLPenalty(0.001),
            llds_penalty=LLDSPenalty(0.2),
            protocol=EverySearch(),
            agent_tools=[Passages(setting.observation)],
            optimization=Optimization(
                mini_batch_size=setting.prompts // 2, micro_batch_size=512, max_tokens_per_micro_batch=4096
            ),
        )
        data = PromptDataModule(
            train="llds:quickstart/train.jsonl", batch_size=setting.prompts, iterations=iterations + 1,
            template=PromptTemplate("Question: {question}\n"), max_prompt_tokens=64,
        )  # fmt: skip
        seconds: dict[str, float] = defaultdict(float)
        clock = Clock(seconds)
        rollout = RolloutCallback(8, reward=ByFirstToken(), limits=limits)
        trainer = pl.Trainer(
            default_root_dir=Path(folder) / "run", accelerator="cpu", max_epochs=1, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            num_sanity_val_steps=0, callbacks=[clock, IterationSignals(), rollout, CollapseMonitor()],
        )  # fmt: skip
        for owner, name, part in (
            (rollout, "_roll_out", "rollout"),
            (module, "prepare", "score"),
            (module, "update", "update"),
        ):
            setattr(owner, name, timed(seconds, part, getattr(owner, name)))
        trainer.fit(module, datamodule=data)
    rows = clock.rows[1:]
    return {key: median(row[key] for row in rows) for key in (*PARTS, "length")}


def exponent(settings: Sequence[float], seconds: Sequence[float]) -> float:
    """Slope of the logarithms, by least squares."""
    x, y = [math.log(value) for value in settings], [math.log(value) for value in seconds]
    return sum((a - mean(x)) * (b - mean(y)) for a, b in zip(x, y, strict=True)) / sum((a - mean(x)) ** 2 for a in x)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--doublings", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start = Setting()
    print(f"base: {start}, group 8, 16 tokens an action, 1 thread, load {os.getloadavg()[0]:.1f}")
    print(
        "| doubled | values | trajectory tokens | iteration, CPU s | exponent: iteration | rollout | scoring | update |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in ("prompts", "turns", "observation", "hidden"):
        values = [getattr(start, name) * 2**power for power in range(arguments.doublings + 1)]
        runs = [run(replace(start, **{name: value}), arguments.iterations) for value in values]
        exponents = [f"{exponent(values, [one[part] for one in runs]):.2f}" for part in ("iteration", *PARTS[:3])]
        shown = [
            " / ".join(f"{one[key]:{form}}" for one in runs) for key, form in (("length", ".0f"), ("iteration", ".2f"))
        ]
        print(
            f"| {name} | {' / '.join(map(str, values))} | {' | '.join(shown)} | {' | '.join(exponents)} |", flush=True
        )


if __name__ == "__main__":
    main()

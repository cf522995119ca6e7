"""What llds costs in TRL: the share of the processor time of a training that the watch, the signals and LLDS take.

    python tools/bench/training/trl_signals.py [--hidden 256] [--layers 4] [--generations 8] [--budget 0.02]

One training of a random Qwen2 with clocks around what GRPOTrainer alone would not do, so that all shares are of the
same seconds. LLDS: its term in the loss, without its part of the backward pass. Signals: keeping the log-probabilities,
`policy_metrics`, and the second look at some responses. Watch: the detector, at each logged row. The first generation
does not count.
"""

import argparse
import logging
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from transformers import Qwen2Config, Qwen2ForCausalLM, TrainerCallback
from trl import GRPOConfig

from llds.integrations.likelihood import Likelihood
from llds.integrations.transformers import CollapseCallback
from llds.integrations.trl import LLDSTrainer
from llds.modules.policy.tokenizer import load_tokenizer

SECONDS: dict[str, float] = defaultdict(float)
PLACES = ("Paris", "Rome", "Bonn", "Oslo")
STEPS = 4
"""Optimizer steps of a generation."""


def clock(owner: Any, name: str, part: str) -> None:
    """Add up the processor seconds of a function."""
    function: Callable[..., Any] = getattr(owner, name)

    def run(*arguments: Any, **named: Any) -> Any:
        started = time.process_time()
        try:
            return function(*arguments, **named)
        finally:
            SECONDS[part] += time.process_time() - started

    setattr(owner, name, run)


class Total(TrainerCallback):
    """Begins to count after the first generation's steps."""

    started = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Of an optimizer step."""
        if state.global_step == STEPS:
            SECONDS.clear()
            self.started = time.process_time()


def reward(completion_ids: list[list[int]], **others: Any) -> list[float]:
    """Tells the responses of a group apart."""
    return [float(sum(ids) % 2) for ids in completion_ids]


def main() -> None:
    """Train, and print the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=96, help="of each response")
    parser.add_argument("--responses", type=int, default=64, help="of a generation, a multiple of 16")
    parser.add_argument("--generations", type=int, default=8)
    parser.add_argument("--budget", type=float, default=0.02)
    given = parser.parse_args()
    logging.getLogger("llds").setLevel(logging.ERROR)
    tokenizer = load_tokenizer("llds:quickstart/policy")
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=given.hidden,
        intermediate_size=4 * given.hidden,
        num_hidden_layers=given.layers,
        num_attention_heads=8,
        num_key_value_heads=8,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    total = Total()
    with tempfile.TemporaryDirectory() as folder:
        trainer = LLDSTrainer(
            model=Qwen2ForCausalLM(config),
            processing_class=tokenizer,
            reward_funcs=reward,
            budget=given.budget,
            train_dataset=Dataset.from_list([{"prompt": f"Where is {place} ?"} for place in PLACES * 64]),
            callbacks=[CollapseCallback(), total],
            args=GRPOConfig(
                output_dir=folder,
                per_device_train_batch_size=given.responses // 4,
                gradient_accumulation_steps=2,
                steps_per_generation=4,
                num_iterations=2,
                num_generations=8,
                max_completion_length=given.tokens,
                generation_kwargs={"min_new_tokens": given.tokens},
                max_steps=STEPS * given.generations,
                learning_rate=1e-5,
                loss_type="grpo",
                bf16=False,
                use_cpu=True,
                logging_steps=1,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
            ),
        )
        for owner, name, part in (
            (Likelihood, "begin", "signals: keeping"),
            (Likelihood, "see", "signals: keeping"),
            (LLDSTrainer, "_samples", "signals: keeping"),
            (LLDSTrainer, "_score", "signals: scoring once more"),
            (LLDSTrainer, "log_likelihood", "signals: all after the updates"),
            (CollapseCallback, "on_log", "watch"),
            (type(trainer.llds), "__call__", "LLDS"),
        ):
            clock(owner, name, part)
        trainer.train()
    seconds = time.process_time() - total.started
    parameters = sum(one.numel() for one in trainer.model.parameters())
    steps = STEPS * (given.generations - 1)
    size = f"{parameters / 1e6:.1f}M parameters, {torch.get_num_threads()} threads"
    print(f"{size}, {seconds / steps:.2f} s of the processor a step")
    for part, spent in sorted(SECONDS.items()):
        print(f"{part:32s} {spent / seconds:7.2%}")
    print(f"{'time/signals_share, at the end':32s} {trainer.likelihood.share:7.2%}")


if __name__ == "__main__":
    main()

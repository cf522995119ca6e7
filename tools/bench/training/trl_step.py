"""TRL's side of `grpo_step.py`: runs in TRL's own environment, imports nothing of llds, steps when it is told to.

``--render`` prints the prompts with a tool's description in them, as TRL would make them; else a training waits for a
line on its standard input before every step, and prints a line of JSON after it.
"""

import argparse
import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer


def search(query: str, top_k: int = 3) -> str:
    """Search a collection of encyclopedia passages and return those that fit the query best, with their titles.

    Ask short questions about a single fact, and again with other words where the passages do not help.

    Args:
        query: What to look for, in a few words: a name, a place, a date, or a short question about one of them.
        top_k: Number of passages.

    Returns:
        The passages, one after the other, each with its title.
    """
    return "nothing"


class Paced(TrainerCallback):
    """Waits before each step and reports after it."""

    def __init__(self) -> None:
        self.tokens = 0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Wait."""
        sys.stdin.readline()
        self.tokens = 0
        self.started = (time.perf_counter(), time.process_time())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Report."""
        wall, cpu = time.perf_counter() - self.started[0], time.process_time() - self.started[1]
        report({"wall": wall, "cpu": cpu, "tokens": self.tokens})


def report(values: dict[str, Any]) -> None:
    """A line for the parent, apart from what libraries print."""
    sys.__stdout__.write("@" + json.dumps(values) + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


def main() -> None:
    """Render, or train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", help="JSON from grpo_step.py")
    parser.add_argument("--render", action="store_true", help="print the prompts with a tool's description")
    arguments = parser.parse_args()
    settings = json.loads(arguments.settings)
    torch.set_num_threads(settings["threads"])
    tokenizer = AutoTokenizer.from_pretrained(settings["policy"])
    tokenizer.chat_template = (Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja").read_text()
    chats = [[{"role": "user", "content": prompt}] for prompt in settings["prompts"]]
    if arguments.render:
        render = partial(tokenizer.apply_chat_template, tools=[search], add_generation_prompt=True, tokenize=False)
        report({"prompts": [render(chat) for chat in chats]})
        return
    paced = Paced()

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        paced.tokens = sum(len(ids) for ids in completion_ids)
        return [float(ids[0] % 2) for ids in completion_ids]

    rows = len(settings["prompts"]) * settings["group"]
    trainer = GRPOTrainer(
        model=settings["policy"],
        processing_class=tokenizer,
        reward_funcs=reward,
        tools=[search] if settings["tools"] else None,
        train_dataset=Dataset.from_dict({"prompt": chats if settings["tools"] else settings["prompts"]}),
        args=GRPOConfig(
            output_dir=settings["scratch"],
            per_device_train_batch_size=rows,
            num_generations=settings["group"],
            max_completion_length=settings["new_tokens"],
            generation_kwargs={"min_new_tokens": settings["new_tokens"]},
            beta=0.001,
            loss_type="grpo",
            learning_rate=1e-4,
            max_steps=settings["steps"],
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            logging_steps=1,
            disable_tqdm=True,
        ),
        callbacks=[paced],
    )
    trainer.train()


if __name__ == "__main__":
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for the whole life of the process)
    main()

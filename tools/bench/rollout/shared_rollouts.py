"""What it saves to compute once what contexts share: tokens through the model and time of a rollout, by prompt length.

Run from the repository root (under a minute)::

    python tools/bench/rollout/shared_rollouts.py
    python tools/bench/rollout/shared_rollouts.py --group_size 16 --instructions 0 660 2000

The policy that ships with llds rolls out 8 prompts x 8 trajectories of up to three searches, greedily, behind an
instruction of so many tokens (660: the description of one tool in TRL's prompt). Ratios are without sharing over with,
medians of runs that alternate; processor time, which a loaded machine disturbs less than wall time.
"""

import argparse
import statistics
import time

import torch
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from llds.files import read_rows
from llds.modules.policy.tokenizer import load_tokenizer
from llds.paths import resolve_path
from llds.rollout import Collection, EpisodeLimits, RolloutCollector, TagProtocol, ToolCallPolicy
from llds.samplers import TransformersSampler
from llds.types import Prompt, SamplingParams
from tools.bench.rollout.tool_loop import POLICY, QUESTIONS, DelayedTool

LIMITS = EpisodeLimits(action_tokens=24, observation_tokens=128, total_tokens=4096, turns=3)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group_size", type=int, default=8)
    parser.add_argument("--instructions", type=int, nargs="+", default=[0, 200, 660])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bar()
    tokenizer = load_tokenizer(POLICY)
    model = AutoModelForCausalLM.from_pretrained(resolve_path(POLICY), dtype=torch.float32)
    questions = [f"Question: {row.values['question']}\n" for row in read_rows(QUESTIONS, limit=options.prompts)]
    text = " ".join(f"{row.values['question']}" for row in read_rows(QUESTIONS, limit=400))
    instruction = tokenizer.encode(text, add_special_tokens=False)
    print(f"{'instruction':>11} {'tokens with':>12} {'without':>9} {'ratio':>6} {'cpu time ratio':>15}")
    for length in options.instructions:
        ids = [(*instruction[:length], *tokenizer.encode(one, add_special_tokens=False)) for one in questions]
        prompts = [Prompt(str(n), "", ("x",), prompt_ids=one) for n, one in enumerate(ids)]
        tokens: dict[bool, int] = {}
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(options.repeats):
            for shares in (True, False):
                sampler = TransformersSampler(max_wait_s=60.0, share_prefixes=shares)
                sampler.attach(model, tokenizer)
                tool = DelayedTool(0.0, in_thread=False)
                collector = RolloutCollector(sampler, tokenizer, TagProtocol(), [tool], ToolCallPolicy())
                started = time.process_time()
                collector.collect(prompts, Collection(options.group_size, SamplingParams(0.0), LIMITS, (0, 0)))
                seconds[shares].append(time.process_time() - started)
                tokens[shares] = sampler.forward_tokens
                collector.close()
                sampler.close()
        ratio = statistics.median(seconds[False]) / statistics.median(seconds[True])
        print(
            f"{length:11d} {tokens[True]:12,d} {tokens[False]:9,d} {tokens[False] / tokens[True]:6.2f} {ratio:15.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""How long prompts take: reading and checking at start-up, and encoding, one by one against a batch at a time.

python tools/bench/prompts.py data/train/r1searcher_stage_2.jsonl --questions 170000

Reads the file, repeats its questions up to the number, and prints seconds. Encoding one by one is measured on a part.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle, islice
from typing import Any

from llds.data import DataSource, PromptDataModule, PromptLoader, PromptTemplate, read_prompts
from llds.modules.policy.tokenizer import load_tokenizer

SAMPLE = 2000
ROUNDS = 5


def seconds(function: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path")
    parser.add_argument("--questions", type=int, default=170_000)
    parser.add_argument("--policy", default="llds:quickstart/policy")
    parser.add_argument("--batch_size", type=int, default=512)
    args = parser.parse_args()
    tokenizer, template = load_tokenizer(args.policy), PromptTemplate()

    read_s = seconds(lambda: read_prompts(DataSource(args.path)))
    prompts = read_prompts(DataSource(args.path))
    sample = prompts[:SAMPLE]
    encode_all = lambda: [template.encode(prompt, tokenizer) for prompt in sample]  # noqa: E731
    encode_batch = lambda batch: template.encode_batch(batch, tokenizer)  # noqa: E731
    rounds = [(seconds(encode_all), seconds(lambda: encode_batch(sample))) for _ in range(ROUNDS)]
    single_s, batch_s = (min(times) / len(sample) for times in zip(*rounds, strict=True))  # the machine may be shared

    many = [replace(p, prompt_id=str(n), origin=str(n)) for n, p in enumerate(islice(cycle(prompts), args.questions))]
    data = PromptDataModule(max_prompt_tokens=2048)
    check_s = seconds(lambda: [template.max_tokens(p, tokenizer) > data.max_prompt_tokens for p in many])
    loader = PromptLoader(many, args.batch_size, 1, shuffle=True, encode=encode_batch)
    first_s = seconds(lambda: next(iter(loader)))

    print(f"read {len(prompts):,} rows: {read_s:.2f} s")
    print(f"encode one by one: {single_s * 1e6:.0f} us a prompt, in a batch: {batch_s * 1e6:.0f} us")
    print(f"start-up with {len(many):,} prompts, all encoded one by one: {single_s * len(many):.0f} s")
    print(f"start-up with {len(many):,} prompts, lengths bounded: {check_s:.1f} s")
    print(f"then each batch of {args.batch_size}: {batch_s * args.batch_size:.2f} s")
    print(f"the first batch, with the order of the pass: {first_s:.2f} s")


if __name__ == "__main__":
    main()

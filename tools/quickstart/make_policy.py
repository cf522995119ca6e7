"""Make the quickstart's start policy: tokenizer, supervised warm-up, export to `llds/quickstart/policy/`.

Usage: ``python tools/quickstart/make_policy.py [--out DIR] [--good-steps N] [--imperfect-steps N]`` (about a quarter of
an hour on one core). The seed is fixed and one thread computes, so the same machine makes the same weights.

Two stages. First good conduct: search for the right thing, go on to the second hop, copy the right span. Then imperfect
conduct: bad queries, stopping after one hop, wrong spans. What is left is a policy that *can* do the right thing and
mostly does not: reinforcement learning has behaviour to select, and can reach about what the first stage reached.
"""

import argparse
import json
import random
import time
from pathlib import Path

import torch

from demonstrations import Conduct, Demonstrator
from evaluate_policy import evaluate
from make_world import ASSETS, split_countries
from policy import name_pieces, new_policy, train_tokenizer
from retrieval import ExactSearch
from warm_up import DemonstrationEncoder, Trainer, batches
from world import read_countries

from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

SEED = 0
BATCH_SIZE = 64
DRAWN_AT_ONCE = 64 * 200
IMPERFECT = Conduct(bad_query=0.35, stop_early=0.6, wrong_span=0.35)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of the corpus and the training questions."""
    corpus = (ASSETS / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    questions = (ASSETS / "train.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["contents"] for line in corpus] + [json.loads(line)["question"] for line in questions]
    return train_tokenizer(texts)


def warm_up(
    model: LlamaForCausalLM, demonstrator: Demonstrator, encoder: DemonstrationEncoder, conduct: Conduct, steps: int,
    scale: float,
) -> None:
    """One stage: fresh demonstrations all the while, a learning-rate schedule of its own."""
    trainer, rng, done, started = Trainer(model), random.Random(SEED), 0, time.perf_counter()  # noqa: S311
    model.train()
    while done < steps:
        drawn = demonstrator.draw(DRAWN_AT_ONCE, conduct, share_invented=0.5)
        for batch in batches(encoder.encode(drawn), BATCH_SIZE, rng):
            loss = trainer.step(batch, done / steps, scale)
            done += 1
            if done % 200 == 0 or done == steps:
                print(f"step {done}/{steps}  loss {loss:.3f}  {time.perf_counter() - started:.0f} s", flush=True)
            if done == steps:
                break


def main() -> None:
    """Make the policy and print how well each stage does on validation and test questions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ASSETS / "policy")
    parser.add_argument("--good-steps", type=int, default=6000)
    parser.add_argument("--imperfect-steps", type=int, default=1500)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    tokenizer = make_tokenizer()
    model = new_policy(tokenizer)
    search = ExactSearch(ASSETS / "corpus.jsonl")
    countries = split_countries(read_countries())["train"]
    demonstrator = Demonstrator(countries, search, name_pieces(tokenizer), SEED)
    demonstrator.prefetch()
    encoder = DemonstrationEncoder(tokenizer)
    for name, conduct, steps, scale in (
        ("good", Conduct(), arguments.good_steps, 1.0),
        ("imperfect", IMPERFECT, arguments.imperfect_steps, 0.3),
    ):
        warm_up(model, demonstrator, encoder, conduct, steps, scale)
        model.eval()
        shipped = new_policy(tokenizer)
        shipped.load_state_dict({key: value.bfloat16().float() for key, value in model.state_dict().items()})
        for split, temperature in (("validation", 0.0), ("validation", 1.0), ("test", 0.0)):
            print(name, split, f"temperature {temperature:g}", evaluate(shipped.eval(), tokenizer, search, split, temperature))
        folder = arguments.out if name == "imperfect" else arguments.out.with_name(f"{arguments.out.name}-good")
        if name == "imperfect" or arguments.out != ASSETS / "policy":
            model.to(torch.bfloat16).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            model.float()


if __name__ == "__main__":
    main()

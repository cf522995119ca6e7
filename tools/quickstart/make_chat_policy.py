"""Make the start policy of `conf/quickstart_chat.yaml`: the shipped policy, warmed up once more on tool calls.

Usage: ``python tools/quickstart/make_chat_policy.py`` (about eight minutes on one core). The seed is fixed and one
thread computes, so the same machine makes the same weights.

It starts from `llds/quickstart/policy/`, whose skills it keeps: tokens of the chat template take the place of the tags,
each with the embedding of what it is like. Then it sees imperfect conduct once more, now in the form of chats.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from make_policy import SEED, STAGES, WarmUp, export
from make_world import ASSETS
from policy import chat_tokenizer, copy_embeddings, new_policy

STAGE = replace(STAGES["imperfect"], steps=200, batch_size=40, scale=0.5)


def main() -> None:
    """Warm up, print how well the policy does, export it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ASSETS / "policy_chat", help="folder to export to")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    of_tags = AutoTokenizer.from_pretrained(ASSETS / "policy")
    old = AutoModelForCausalLM.from_pretrained(ASSETS / "policy", dtype=torch.float32)
    tokenizer = chat_tokenizer(of_tags)
    model = new_policy(tokenizer)
    model.model.layers.load_state_dict(old.model.layers.state_dict())
    model.model.norm.load_state_dict(old.model.norm.state_dict())
    copy_embeddings(model, old, (of_tags, tokenizer))
    warm_up = WarmUp(arguments.output, tokenizer)
    warm_up.train(model, "chat", STAGE)
    warm_up.report("chat", model)
    export(model, tokenizer, arguments.output)


if __name__ == "__main__":
    main()

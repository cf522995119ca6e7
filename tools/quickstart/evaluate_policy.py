"""Evaluate a policy on the quickstart's questions: greedy or sampled episodes with exact search.

Usage: ``python tools/quickstart/evaluate_policy.py [--policy DIR] [--split test] [--temperature 0]``.

An independent and plain check of what `llds test` reports: no trainer, no database, one batch per turn.
"""

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from llds.rewards import exact_match
from llds.rollout.observation import ObservationEncoder
from llds.types import Action

from forms import Form, form_of
from make_world import ASSETS
from retrieval import ExactSearch
from warm_up import OBSERVATION_TOKENS

MAX_TURNS, ACTION_TOKENS, BATCH_SIZE = 3, 32, 300


@dataclass
class Episode:
    """One question on its way to an answer."""

    row: dict[str, Any]
    ids: list[int]
    searches: int = 0
    answer: str | None = None
    is_done: bool = field(default=False)


@torch.no_grad()
def act(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, form: Form, batch: list[Episode], temperature: float
) -> list[str]:
    """The next action of each episode, appended to its ids; returns the texts."""
    inputs = tokenizer.pad({"input_ids": [episode.ids for episode in batch]}, return_tensors="pt", padding_side="left")
    law = {"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 0 else {}
    ends = sorted({tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(form.end_tokens)})
    config = GenerationConfig(
        max_new_tokens=ACTION_TOKENS,
        do_sample=temperature > 0,
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id,
        **law,
    )
    generate: Any = model.generate
    output = generate(**inputs, generation_config=config)
    texts = []
    for episode, ids in zip(batch, output[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
        stop = next((place + 1 for place, token in enumerate(ids) if token in ends), len(ids))
        episode.ids += ids[:stop]
        texts.append(str(tokenizer.decode(ids[:stop])))
    return texts


def query_of(action: Action) -> str:
    """What a call asks the search for."""
    return str(action.calls[0].arguments.get("query", "")).strip() if action.calls else action.content


def run_episodes(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    search: ExactSearch,
    rows: list[dict[str, Any]],
    temperature: float,
) -> list[Episode]:
    """Run one episode per question to its answer or its last turn."""
    form = form_of(tokenizer)
    protocol, tools, observe = form.protocol, form.tools, ObservationEncoder(tokenizer, form.protocol, form.tools)
    episodes = [Episode(row, tokenizer.encode(form.prompt(row["question"]))) for row in rows]
    for _ in range(MAX_TURNS):
        active = [episode for episode in episodes if not episode.is_done]
        for start in range(0, len(active), BATCH_SIZE):
            batch = active[start : start + BATCH_SIZE]
            texts = act(model, tokenizer, form, batch, temperature)
            actions = [protocol.parse(text, tools) for text in texts]
            found = iter(search.search([query_of(action) for action in actions if action.kind == "tool"]))
            for episode, text, action in zip(batch, texts, actions, strict=True):
                if action.kind == "answer":
                    episode.answer, episode.is_done = action.content, True
                    continue
                told = protocol.correct(text, tools, action.reason)
                if action.kind == "tool":
                    told = protocol.observe(search.body(next(found)), tools)
                    episode.searches += 1
                episode.ids += observe.encode(told, OBSERVATION_TOKENS).token_ids
    return episodes


def evaluate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, search: ExactSearch, split: str, temperature: float
) -> dict[str, str]:
    """EM and searches per question, by kind of question."""
    rows = [json.loads(line) for line in (ASSETS / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
    episodes = run_episodes(model, tokenizer, search, rows, temperature)
    results = {}
    for kind in ("one_hop", "two_hop", "all"):
        part = [episode for episode in episodes if kind in ("all", episode.row["data_source"])]
        matches = sum(exact_match(episode.answer, episode.row["golden_answers"]) for episode in part)
        searches = sum(episode.searches for episode in part) / len(part)
        results[kind] = f"EM {100 * matches / len(part):.1f} of {len(part)}, searches {searches:.2f}"
    return results


def main() -> None:
    """Evaluate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path, default=ASSETS / "policy")
    parser.add_argument("--split", choices=["train", "validation", "test"], default="test")
    parser.add_argument("--temperature", type=float, default=0.0)
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.policy)
    model = AutoModelForCausalLM.from_pretrained(arguments.policy, dtype=torch.float32).eval()
    search = ExactSearch(ASSETS / "corpus.jsonl")
    torch.manual_seed(0)
    results = evaluate(model, tokenizer, search, arguments.split, arguments.temperature)
    print("\n".join(f"{kind}: {result}" for kind, result in results.items()))


if __name__ == "__main__":
    main()

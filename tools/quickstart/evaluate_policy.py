"""Evaluate a policy on the quickstart's questions: greedy or sampled episodes with exact search.

Usage: ``python tools/quickstart/evaluate_policy.py [--policy DIR] [--split test] [--temperature 0]``.

An independent and slow-but-plain check of what `llds test` reports: no trainer, no database, one batch per turn.
"""

import argparse
import json
import time
from collections import Counter
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from demonstrations import PROMPT, PROTOCOL, TOOLS
from make_world import ASSETS
from retrieval import ExactSearch
from warm_up import OBSERVATION_TOKENS

from llds.rewards import exact_match
from llds.rollout.observation import ObservationEncoder

MAX_TURNS, ACTION_TOKENS = 4, 32


@torch.no_grad()
def run_episodes(model, tokenizer, search, rows, temperature=0.0, batch_size=300):
    observe = ObservationEncoder(tokenizer, PROTOCOL, TOOLS)
    episodes = [{"row": r, "ids": tokenizer.encode(PROMPT.format(question=r["question"]), add_special_tokens=False),
                 "actions": [], "docs": [], "answer": None, "done": False} for r in rows]
    for turn in range(MAX_TURNS):
        active = [e for e in episodes if not e["done"]]
        for s in range(0, len(active), batch_size):
            batch = active[s : s + batch_size]
            enc = tokenizer.pad({"input_ids": [e["ids"] for e in batch]}, return_tensors="pt", padding_side="left")
            out = model.generate(**enc, max_new_tokens=ACTION_TOKENS, do_sample=temperature > 0,
                                 **({"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 0 else {}),
                                 stop_strings=PROTOCOL.stop_strings(TOOLS), tokenizer=tokenizer)
            new = out[:, enc["input_ids"].shape[1] :].tolist()
            queries = []
            for e, ids in zip(batch, new):
                ends = [i for i, t in enumerate(ids) if t in STOPS(tokenizer)]
                ids = ids[: ends[0] + 1] if ends else [t for t in ids if t != tokenizer.pad_token_id]
                text = tokenizer.decode(ids)
                e["ids"] = e["ids"] + ids
                e["actions"].append(text)
                action = PROTOCOL.parse(text, TOOLS)
                if action.kind == "answer":
                    e["answer"], e["done"] = action.content, True
                elif action.kind == "tool":
                    queries.append((e, action.content))
                else:
                    t = PROTOCOL.correct(text, TOOLS)
                    e["ids"] += observe.encode(t, OBSERVATION_TOKENS).token_ids
            for (e, _), found in zip(queries, search.search([q for _, q in queries]) if queries else []):
                e["docs"].append([search.ids[r] for r in found])
                e["ids"] += observe.encode(PROTOCOL.observe(search.body(found), TOOLS), OBSERVATION_TOKENS).token_ids
    return episodes


def STOPS(tokenizer):
    return set(tokenizer.convert_tokens_to_ids(PROTOCOL.stop_strings(TOOLS))) | {tokenizer.eos_token_id}


def report(episodes) -> dict:
    out = {}
    for kind in ("one_hop", "two_hop", None):
        part = [e for e in episodes if kind in (None, e["row"]["data_source"])]
        out[kind or "all"] = {
            "n": len(part),
            "em": round(sum(exact_match(e["answer"], e["row"]["golden_answers"]) for e in part) / len(part), 4),
            "searches": round(sum(len(e["docs"]) for e in part) / len(part), 3),
            "found": round(sum(any(e["row"]["supporting_ids"][-1] in d for d in e["docs"]) for e in part) / len(part), 4),
            "answered": round(sum(e["answer"] is not None for e in part) / len(part), 4),
        }
    return out

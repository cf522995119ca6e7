"""What llds itself costs in an iteration of the paper's size: no model, no index, no GPU; processor seconds by part.

    python tools/bench/rollout/framework_cost.py
    python tools/bench/rollout/framework_cost.py --prompts 102 --repeats 1

510 prompts in groups of 5 are 2,550 trajectories of about 1,600 tokens: a prompt of 216, then three actions of 150,
each with an observation of 350 tokens (three passages), and an answer. The sampler is scripted, the retriever finds
passages that nobody has seen. One rank of `--ranks` (8) collects its share; what else is per rank is done for all
trajectories, as every rank does.

* collect: episodes of one rank: parsing, searching, encoding observations.
* replies: JSON of as many vLLM replies as the share has, with a log-probability for each token.
* exchange: the share to bytes, and all shares from bytes.
* collate, check: tensors of all trajectories, and that they hold what was sampled.
* metrics: signals of rollout and policy.
"""

import argparse
import gc
import json
import pickle
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from llds.agent_tools import SearchTool
from llds.batches.policy_batch import PolicyBatch, collate
from llds.callbacks.rollout.trained_ids import check_trained_ids
from llds.files import read_rows
from llds.metrics import has_answer, policy_metrics, rollout_metrics
from llds.modules.policy.tokenizer import load_tokenizer
from llds.paths import resolve_path
from llds.retrieval import Passage, Retriever
from llds.rollout import Collection, EpisodeLimits, RolloutCollector, TagProtocol, ToolCallPolicy
from llds.samplers import Sampler, SampleRequest
from llds.samplers.vllm.server.client import read_reply
from llds.types import Completion, Prompt, SamplingParams, Trajectory

POLICY = "llds:quickstart/policy"
GROUP, TURNS, PROMPT_TOKENS, ACTION_TOKENS, OBSERVATION_TOKENS = 5, 3, 216, 150, 350
_H100_ITERATION_S = 95.0
"""By arithmetic: sampling, scoring and updating 2,550 trajectories with a 3B model on 8 H100."""


class Scripted(Sampler):
    """Thinks and searches for something new, then answers; every action of a length.

    Args:
        tokenizer: Encodes the script.
        words: To think with.
    """

    def __init__(self, tokenizer: Any, words: list[str]) -> None:
        encode = tokenizer.encode
        text = " ".join(words[:300])
        thought = encode(f"<think> {text}", add_special_tokens=False)[: ACTION_TOKENS - 10]
        self._queries = [encode(f"</think><search>{word} {words[n // 2]}</search>") for n, word in enumerate(words)]
        self._answer = thought + encode("</think><answer> Oslo </answer>")
        self._thought = thought

    def update_weights(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Have none."""

    async def sample(self, request: SampleRequest) -> Completion:
        """Act."""
        trajectory, turn = request.seed[-2:]
        query = self._queries[(trajectory * (TURNS + 1) + turn) % len(self._queries)]
        ids = list(self._answer) if turn == TURNS else self._thought + query
        return Completion(ids, [-0.25] * len(ids), "stop")


class Unseen(Retriever):
    """Finds passages that no other query finds.

    Args:
        sentences: What they are made of.
    """

    def __init__(self, sentences: list[str]) -> None:
        self._sentences, self._numbers = sentences, random.Random(0)  # noqa: S311 (no secret)

    def retrieve(self, queries: list[str], top_k: int) -> list[list[Passage]]:
        """Find."""
        return [
            [
                Passage(f"{query}-{n}", "Norway", " ".join(self._numbers.choices(self._sentences, k=8)))
                for n in range(top_k)
            ]
            for query in queries
        ]

    def describe(self) -> dict[str, Any]:
        """Its name."""
        return {"retriever": "unseen"}


@dataclass
class Iteration:
    """An iteration, part by part.

    Attributes:
        prompts: Of all ranks.
        ranks: Number of ranks.
        seconds: Processor time of each part so far.
    """

    prompts: int
    ranks: int
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tokenizer = load_tokenizer(POLICY)
        rows = [row.values["contents"] for row in read_rows(resolve_path("llds:quickstart/corpus.jsonl"))]
        words = sorted({word for text in rows for word in text.split() if word.isalpha()})
        random.Random(0).shuffle(words)  # noqa: S311 (no secret)
        self.sampler = Scripted(self.tokenizer, [f"{word} {n}" for n in range(6) for word in words[:2000]])
        self.tool = SearchTool(top_k=3)
        self.tool.attach(Unseen([text.partition("\n")[2] or text for text in rows]))
        ids = tuple(self.tokenizer.encode(" ".join(rows[:60]), add_special_tokens=False)[:PROMPT_TOKENS])
        self.questions = [Prompt(str(n), "question", ("Oslo",), prompt_ids=ids) for n in range(self.prompts)]
        limits = EpisodeLimits(observation_tokens=OBSERVATION_TOKENS, turns=TURNS)
        self.collection = Collection(GROUP, SamplingParams(), limits, (0, 0, 0))

    def timed(self, name: str, part: Callable[[], Any]) -> Any:
        """Do a part and note its processor time."""
        gc.collect()
        started = time.process_time()
        result = part()
        self.seconds[name] = time.process_time() - started
        return result

    def collected(self, share: tuple[int, int]) -> list[Trajectory]:
        """What one rank collects."""
        collector = RolloutCollector(self.sampler, self.tokenizer, TagProtocol(), [self.tool], ToolCallPolicy())
        try:
            fields = vars(self.collection) | {"share": share}
            return collector.collect(self.questions, Collection(**fields))
        finally:
            collector.close()

    def run(self) -> None:
        """Do all parts."""
        share = self.timed("collect", lambda: self.collected((0, self.ranks)))
        everything = self.timed("collect, all in one process", lambda: self.collected((0, 1)))
        bodies = [reply(turn.action_ids) for one in share for turn in one.turns]
        self.timed("replies", lambda: [read_reply(body, 0) for body in bodies])
        shares = [everything[n :: self.ranks] for n in range(self.ranks)]
        sent = [pickle.dumps(one) for one in shares]
        self.timed("exchange", lambda: (pickle.dumps(shares[0]), [pickle.loads(one) for one in sent]))  # noqa: S301
        batch = self.timed("collate", lambda: collate(everything))
        self.timed("check", lambda: check_trained_ids(everything, batch))
        self.timed("metrics of the rollout", lambda: rollout_metrics(everything, 0))
        drawn = torch.randn(batch.input_ids.shape, generator=torch.Generator().manual_seed(0))
        drawn = drawn.where(batch.action_mask, 0.0)
        changed, entropy = drawn + 0.01, drawn.abs()
        self.timed("metrics of the policy", lambda: signals(everything, batch, drawn, changed, entropy))
        self.tokens = float(batch.lengths.float().mean())


def reply(ids: list[int]) -> bytes:
    """A reply of vLLM's server."""
    content: list[dict[str, Any]] = [
        {"token": f"token_id:{one}", "logprob": -0.2512345, "bytes": None, "top_logprobs": []} for one in ids
    ]
    choice = {
        "index": 0,
        "logprobs": {"content": content},
        "finish_reason": "stop",
        "stop_reason": "</search>",
        "token_ids": ids,
        "weight_versions": [{"version": "0", "start": 0, "end": len(ids)}],
    }
    return json.dumps({"request_id": "x" * 32, "choices": [choice]}).encode()


def signals(
    trajectories: list[Trajectory],
    batch: PolicyBatch,
    drawn: torch.Tensor,
    changed: torch.Tensor,
    entropy: torch.Tensor,
) -> dict[str, float]:
    """The policy's signals, of log-probabilities and entropies that were drawn at random."""
    return policy_metrics(
        old_log_probs=drawn,
        new_log_probs=changed,
        behavior_log_probs=batch.behavior_log_probs,
        entropy=entropy,
        action_index=batch.action_index,
        answered=has_answer(trajectories),
        correct=batch.correct,
        ref_log_probs=drawn,
    )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=510)
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    iteration = Iteration(given.prompts, given.ranks)
    found: dict[str, list[float]] = {}
    for _ in range(given.repeats):
        iteration.run()
        for name, value in iteration.seconds.items():
            found.setdefault(name, []).append(value)
    best = {name: min(values) for name, values in found.items()}
    total = sum(value for name, value in best.items() if "one process" not in name)
    print(f"{given.prompts * GROUP} trajectories of {iteration.tokens:.0f} tokens, rank 0 of {given.ranks}\n")
    print("| part | CPU s |\n| --- | --- |")
    for name, value in best.items():
        print(f"| {name} | {value:.2f} |")
    share = total / _H100_ITERATION_S
    print(f"| a rank's sum | {total:.2f}, {100 * share:.1f}% of {_H100_ITERATION_S:g} s |")


if __name__ == "__main__":
    main()

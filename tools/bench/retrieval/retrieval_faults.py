"""Rollouts beside a retrieval server of which 30% of the answers are faults: what is lost, and what does it cost?

Run from the repository root (about a minute)::

    python tools/bench/retrieval/retrieval_faults.py
    python tools/bench/retrieval/retrieval_faults.py --share 0.1 --action-s 0.5 --timeout-s 10

Everything is real but the policy and the faults: 1,000 trajectories, each with three searches of its own in a BM25
index over the passages that ship with llds, through ``SearchTool``, ``HTTPRetriever`` and a loopback socket to our
server. The policy is scripted; an action takes ``--action-s`` on average. A fault is, with equal odds, an answer that
never comes, no JSON, the wrong number of lists, a connection that is cut in the middle, or HTTP status 503. Every
trajectory that did not fail is compared with what a search without a server finds. Prints both times and their ratio.
"""

import argparse
import asyncio
import logging
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from llds.agent_tools import SearchTool
from llds.files import read_rows
from llds.modules.policy.tokenizer import load_tokenizer
from llds.paths import resolve_path
from llds.retrieval import BM25Retriever, HTTPRetriever
from llds.retrieval.server import retrieval_app, serving
from llds.rollout import Collection, EpisodeLimits, RolloutCollector, TagProtocol, ToolCallPolicy
from llds.samplers import Sampler, SampleRequest
from llds.types import Completion, Prompt, SamplingParams, Trajectory

FAULTS = ("slow", "garbage", "wrong length", "cut", "503")
CORPUS = "llds:quickstart/corpus.jsonl"
POLICY = "llds:quickstart/policy"
SEARCHES = 3
GROUP = 8


class FaultyServer:
    """An ASGI application that answers some requests to ``/retrieve`` with a fault, and passes the others on.

    Args:
        app: The application that works.
        share: Share of faults, 0-1; may be changed at any time.
        seed: Of the faults.

    Attributes:
        faults: How many of each kind there were.
        requests: Number of requests to ``/retrieve``.
    """

    def __init__(self, app: Any, share: float, seed: int = 0) -> None:
        self.app = app
        self.share = share
        self.faults: Counter[str] = Counter()
        self.requests = 0
        self._random = random.Random(seed)  # noqa: S311

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        is_search = scope["type"] == "http" and scope["path"] == "/retrieve"
        self.requests += is_search
        if not is_search or self._random.random() >= self.share:
            await self.app(scope, receive, send)
            return
        fault = self._random.choice(FAULTS)
        self.faults[fault] += 1
        if fault == "slow":
            while (await receive())["type"] != "http.disconnect":
                pass
        elif fault == "cut":
            await _answer(send, b'{"result": [[', promised=1000)
        elif fault == "garbage":
            await _answer(send, b"<html>gateway</html>")
        elif fault == "wrong length":
            await _answer(send, b'{"result": []}')
        else:
            await _answer(send, b'{"error": "busy"}', status=503)


async def _answer(send: Any, body: bytes, status: int = 200, promised: int | None = None) -> None:
    length = str(len(body) if promised is None else promised).encode()
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", length)]})
    await send({"type": "http.response.body", "body": body, "more_body": promised is not None})
    # Returning with a promise that was not kept makes uvicorn cut the connection.


class SearchingSampler(Sampler):
    """Searches three times, each trajectory for words of its own, then answers.

    Args:
        tokenizer: Encodes the script.
        words: What is searched for.
        action_s: Mean time of an action, in seconds; each takes 0.5 to 1.5 times that.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, words: list[str], action_s: float) -> None:
        self.tokenizer = tokenizer
        self.words = words
        self.action_s = action_s
        self.turns: Counter[int] = Counter()

    def query(self, trajectory: int, turn: int) -> str:
        """What a trajectory searches for in a turn."""
        return self.words[(trajectory * SEARCHES + turn) % len(self.words)]

    async def sample(self, request: SampleRequest) -> Completion:
        """Take a while, then do what the script says."""
        turn = self.turns[request.trajectory]
        self.turns[request.trajectory] += 1
        await asyncio.sleep(self.action_s * random.Random(f"{request.trajectory} {turn}").uniform(0.5, 1.5))  # noqa: S311
        query = self.query(request.trajectory, turn)
        text = f"<search> {query} </search>" if turn < SEARCHES else "<answer> done </answer>"
        ids = list(self.tokenizer.encode(text, add_special_tokens=False))
        return Completion(ids, [0.0] * len(ids), "stop")

    def update_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Do nothing."""


def collect(
    sampler: SearchingSampler, retriever: HTTPRetriever, trajectories: int, patience_s: float = 0.0
) -> tuple[list[Trajectory], float]:
    """Roll out; returns the trajectories and the seconds that it took."""
    tool = SearchTool(top_k=2)
    tool.attach(retriever, patience_s)
    limits = EpisodeLimits(action_tokens=64, observation_tokens=256, total_tokens=2048, turns=SEARCHES)
    collector = RolloutCollector(sampler, sampler.tokenizer, TagProtocol(), [tool], ToolCallPolicy())
    ids = tuple(sampler.tokenizer.encode("Question:", add_special_tokens=False))
    prompts = [Prompt(str(number), "?", ("x",), prompt_ids=ids) for number in range(trajectories // GROUP)]
    started = time.perf_counter()
    found = collector.collect(prompts, Collection(GROUP, SamplingParams(), limits, (0, 0)))
    seconds = time.perf_counter() - started
    collector.close()
    return found, seconds


def wrong(trajectory: Trajectory, sampler: SearchingSampler, expected: dict[str, tuple[str, ...]]) -> bool:
    """Whether a trajectory that did not fail holds something else than its own searches and what they find."""
    found = [turn.document_ids for turn in trajectory.turns]
    wanted = [expected[sampler.query(trajectory.index, turn)] for turn in range(SEARCHES)]
    return trajectory.status != "answered" or found != [*wanted, ()]


def main() -> None:
    """Print what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trajectories", type=int, default=1000)
    parser.add_argument("--share", type=float, default=0.3, help="share of faults")
    parser.add_argument("--action-s", type=float, default=1.0, help="mean seconds of an action")
    parser.add_argument("--timeout-s", type=float, default=10.0, help="the client's timeout_s")
    parser.add_argument("--seed", type=int, default=0)
    settings = parser.parse_args()
    tokenizer = load_tokenizer(POLICY)
    words = [" ".join(str(row.values["contents"]).split()) for row in read_rows(resolve_path(CORPUS))]
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # of the connections that are cut on purpose
    times = {}
    with tempfile.TemporaryDirectory() as folder, BM25Retriever(f"{folder}/index", CORPUS) as index:
        results = index.retrieve(words, 2)
        expected = {word: tuple(one.document_id for one in found) for word, found in zip(words, results, strict=True)}
        for share in (0.0, settings.share):
            server = FaultyServer(retrieval_app(index), 0.0, settings.seed)
            with serving(server) as url, HTTPRetriever(url, timeout_s=settings.timeout_s) as retriever:
                server.share = share
                sampler = SearchingSampler(tokenizer, words, settings.action_s)
                found, times[share] = collect(sampler, retriever, settings.trajectories)
            failed = [one for one in found if one.status == "failed"]
            bad = sum(wrong(one, sampler, expected) for one in found if one.status != "failed")
            print(
                f"{share:4.0%} faults: {len(found)} trajectories in {times[share]:.1f} s, {len(failed)} failed, {bad} "
                f"wrong; {server.requests} requests, {sum(server.faults.values())} faults {dict(server.faults)}",
                flush=True,
            )
    print(f"time with faults / without: {times[settings.share] / times[0.0]:.2f}")


if __name__ == "__main__":
    main()

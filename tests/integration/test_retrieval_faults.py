"""Training beside a retrieval server that fails: nothing is lost, doubled or trained on that should not be.

Everything is real but the policy's words and the faults: the trainer, the search tool, the HTTP client, a loopback
socket, our server, BM25 over the shipped passages. What it costs in time is measured by
``tools/bench/retrieval/retrieval_faults.py``.
"""

import asyncio
import logging
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

from llds.agent_tools import SearchTool
from llds.batches import RolloutBatch
from llds.callbacks import RetrievalCallback
from llds.data import DataSource
from llds.errors import TooManyFailuresError
from llds.modules import Optimization
from llds.retrieval import BM25Retriever, HTTPRetriever
from llds.retrieval.server import retrieval_app
from llds.rollout import EpisodeLimits, ToolCallPolicy
from llds.samplers import SampleRequest
from llds.types import Completion
from tests.runs import Run, by_iteration, make_run, scripted
from tests.scripted_sampler import ScriptedSampler
from tests.servers import serving
from tools.bench.retrieval.retrieval_faults import FaultyServer

CORPUS = "llds:quickstart/corpus.jsonl"
PLACES = ["France", "Japan", "Ghana", "Norway", "Peru", "Kenya", "India", "Chile", "Nepal", "Cuba"]
FACTS = ["capital", "currency", "demonym", "highest point"]
SEARCHES = 2


def query(iteration: int, trajectory: int, turn: int) -> str:
    """What a trajectory searches for; no two ask the same."""
    return f"{FACTS[(trajectory + turn) % 4]} of {PLACES[(trajectory + iteration) % 10]} for {trajectory} in {turn}"


def script(iteration: int, trajectory: int, turn: int) -> str:
    """Search twice, then answer."""
    return f"<search> {query(iteration, trajectory, turn)} </search>" if turn < SEARCHES else "<answer> x </answer>"


def unhurried() -> ScriptedSampler:
    """The script, each action after a moment of its own, so that searches do not all come at once."""
    sampler = scripted(script)
    sample_at_once = sampler.sample

    async def sample(request: SampleRequest) -> Completion:
        await asyncio.sleep(random.uniform(0, 0.3))
        return await sample_at_once(request)

    sampler.sample = sample  # type: ignore[method-assign]
    return sampler


class Watch(pl.Callback):
    """Lets faults begin with the training, and keeps what each iteration rolled out and trained on."""

    def __init__(self, server: FaultyServer, share: float) -> None:
        self.server = server
        self.share = share
        self.batches: list[RolloutBatch] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin."""
        self.server.share = self.share

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Keep it."""
        self.batches.append(batch)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BM25Retriever]:
    with BM25Retriever(str(tmp_path_factory.mktemp("bm25") / "index"), CORPUS) as retriever:
        yield retriever


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("uvicorn.error"), "disabled", True)  # of connections cut on purpose


@contextmanager
def training(
    folder: Path,
    server: FaultyServer,
    share: float,
    *,
    iterations: int,
    prompts: int,
    retries: int,
    patience_s: float = 0.0,
    **rollout: Any,
) -> Iterator[tuple[Run, Watch]]:
    """A training whose searches go through the server; 8 trajectories a prompt."""
    with serving(server) as url:
        retriever = HTTPRetriever(url, timeout_s=0.5, max_retries=retries, backoff_s=0.02)
        watch = Watch(server, share)
        policy = ToolCallPolicy(deadline_s=10, max_retries=retries, backoff_s=0.05)
        limits = EpisodeLimits(action_tokens=24, observation_tokens=128, total_tokens=512, turns=SEARCHES)
        run = make_run(
            folder, watch, RetrievalCallback(retriever, patience_s), iterations=iterations, every=1000,
            sampler=unhurried(),
            module={"llds_penalty": None, "optimization": Optimization(mini_batch_size=prompts, micro_batch_size=50)},
            tools=[SearchTool(top_k=2)], rollout={"group_size": 8, "tool_calls": policy, "limits": limits, **rollout},
        )  # fmt: skip
        run.data.train = DataSource("llds:quickstart/train.jsonl", limit=prompts * iterations)  # type: ignore[assignment]
        run.data.batch_size = prompts
        yield run, watch


def check_batch(batch: RolloutBatch, index: BM25Retriever, iteration: int, on_failure: str) -> int:
    """Check an iteration's trajectories and what was trained on; returns how many failed."""
    trajectories = batch.trajectories
    assert [one.index for one in trajectories] == list(range(8 * len(batch.prompts)))
    groups: dict[str, list[Any]] = {}
    for one in trajectories:
        groups.setdefault(one.group_id, []).append(one)
        searched = [query(iteration, one.index, turn) for turn in range(SEARCHES)]
        if one.status != "failed":
            found = [tuple(passage.document_id for passage in passages) for passages in index.retrieve(searched, 2)]
            assert (one.status, [turn.document_ids for turn in one.turns]) == ("answered", [*found, ()])
        else:
            assert "search" in one.failure
    assert {len(group) for group in groups.values()} == {8}
    kept = []
    for group in groups.values():
        alive = [one for one in group if one.status != "failed"]
        if len(alive) == 8 or (on_failure == "drop_trajectory" and len(alive) >= 2):
            kept += alive
    trained = [] if batch.policy_batch is None else batch.policy_batch.input_ids.tolist()
    lengths = [] if batch.policy_batch is None else batch.policy_batch.lengths.tolist()
    rows = [row[:length] for row, length in zip(trained, lengths, strict=True)]
    assert rows == [one.token_ids for one in kept]
    return sum(one.status == "failed" for one in trajectories)


@pytest.mark.slow
def test_1000_trajectories_under_30_percent_faults_are_all_there_and_all_right(
    index: BM25Retriever, tmp_path: Path
) -> None:
    server = FaultyServer(retrieval_app(index), 0.0)
    with training(tmp_path, server, 0.3, iterations=5, prompts=25, retries=3) as (run, watch):
        run.fit()
    failed = [check_batch(batch, index, number, "drop_trajectory") for number, batch in enumerate(watch.batches)]
    assert len(watch.batches) == 5
    assert sum(failed) == 0  # 16 tries: the odds that one search of them all fails are 1e-5
    assert sum(server.faults.values()) > 50


@pytest.mark.slow
@pytest.mark.parametrize("on_failure", ["drop_trajectory", "drop_group"])
def test_what_fails_for_good_is_counted_and_never_trained_on(
    index: BM25Retriever, tmp_path: Path, on_failure: str
) -> None:
    server = FaultyServer(retrieval_app(index), 0.0, seed=1)
    policy = {"on_failure": on_failure, "max_failed": 1.0}
    with training(tmp_path, server, 0.3, iterations=3, prompts=8, retries=0, **policy) as (run, watch):
        run.fit()
    failed = [check_batch(batch, index, number, on_failure) for number, batch in enumerate(watch.batches)]
    assert sum(failed) > 0
    rows = by_iteration(tmp_path).values()
    assert [float(row["rollout/failed"]) for row in rows] == [count / 64 for count in failed]


@pytest.mark.slow
def test_a_server_that_is_gone_for_a_while_is_found_again(index: BM25Retriever, tmp_path: Path) -> None:
    app = retrieval_app(index)
    down = threading.Event()

    async def fragile(scope: Any, receive: Any, send: Any) -> None:
        if not down.is_set():
            await app(scope, receive, send)
        # else: no answer at all, and the connection is closed

    server = FaultyServer(fragile, 0.0)
    with training(tmp_path, server, 0.0, iterations=3, prompts=8, retries=4) as (run, watch):

        class Outage(pl.Callback):
            def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
                if batch_idx == 1:
                    down.set()
                    threading.Thread(target=lambda: (time.sleep(0.7), down.clear()), daemon=True).start()

        run.trainer.callbacks.insert(0, Outage())
        run.fit()
    assert [check_batch(batch, index, number, "drop_trajectory") for number, batch in enumerate(watch.batches)] == [
        0
    ] * 3
    assert [float(row["retrieval/failed_calls"]) > 0 for row in by_iteration(tmp_path).values()] == [False, True, False]


@pytest.mark.slow
def test_a_server_that_is_gone_for_good_stops_the_run_and_says_what_to_do(index: BM25Retriever, tmp_path: Path) -> None:
    server = FaultyServer(retrieval_app(index), 0.0)
    message = r"16 of 16.*retrieve failed 1 times.*--ckpt_path last"
    going = training(tmp_path, server, 1.0, iterations=2, prompts=2, retries=0)
    with going as (run, watch), pytest.raises(TooManyFailuresError, match=message):
        run.fit()
    assert watch.batches == []

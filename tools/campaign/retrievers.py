"""Retrieval servers that fail: 30% of their answers are faults, or they are gone. No trajectory is wrong."""

import logging
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llds.files import read_rows
from llds.modules.policy.tokenizer import load_tokenizer
from llds.paths import resolve_path
from llds.retrieval import BM25Retriever, HTTPRetriever
from llds.retrieval.server import retrieval_app, serving
from tools.bench.retrieval.retrieval_faults import CORPUS, POLICY, FaultyServer, SearchingSampler, collect, wrong
from tools.campaign.table import Outcome

TRAJECTORIES = 200
PATIENCE_S = 60.0


class Gone:
    """An application that does not answer for a while.

    Args:
        app: The application that works.
    """

    def __init__(self, app: Any) -> None:
        self.app = app
        self.is_gone = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer, or cut the connection."""
        if not self.is_gone or scope["type"] != "http":
            await self.app(scope, receive, send)

    def go(self, seconds: float) -> None:
        """Be gone for so long."""
        self.is_gone = True
        threading.Timer(seconds, self.come_back).start()

    def come_back(self) -> None:
        """Answer again."""
        self.is_gone = False


def tries(draw: random.Random, folder: Path) -> Iterator[Outcome]:
    """Collections beside a server that fails, for ever."""
    for name in ("uvicorn.error", "llds"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # connections are cut on purpose
    words = [" ".join(str(row.values["contents"]).split()) for row in read_rows(resolve_path(CORPUS))]
    words = draw.sample(words, TRAJECTORIES * 3)
    with BM25Retriever(str(folder / "index"), CORPUS) as index:
        expected = {
            word: tuple(one.document_id for one in found)
            for word, found in zip(words, index.retrieve(words, 2), strict=True)
        }
        while True:
            draw.shuffle(words)
            server = FaultyServer(retrieval_app(index), 0.0, seed=draw.randrange(1000))
            with serving(server) as url, HTTPRetriever(url, timeout_s=5, backoff_s=0.05) as retriever:
                server.share = 0.3
                yield _collect("30% of the answers are faults", words, expected, retriever)
            gone = Gone(retrieval_app(index))
            with serving(gone) as url, HTTPRetriever(url, timeout_s=2, max_retries=0) as retriever:
                threading.Timer(draw.uniform(0, 0.3), gone.go, (draw.uniform(0.5, 3),)).start()
                yield _collect("gone for up to 3 s", words, expected, retriever)


def _collect(case: str, words: list[str], expected: dict[str, tuple[str, ...]], retriever: HTTPRetriever) -> Outcome:
    """Collect trajectories of three searches each, and compare each with what a search without a server finds."""
    sampler = SearchingSampler(load_tokenizer(POLICY), words, action_s=0.2)
    found, _ = collect(sampler, retriever, TRAJECTORIES, PATIENCE_S)
    failed = [one.failure for one in found if one.status == "failed"]
    bad = sum(wrong(one, sampler, expected) for one in found if one.status != "failed")
    note = f"{bad} wrong, {len(failed)} failed: {failed[:1]}" if bad or failed else ""
    return Outcome(case, note, count=len(found), lost=bad + len(failed))

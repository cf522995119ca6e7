"""Builds of an index in a process of their own, to be killed, and what an index must hold afterwards.

Run as a script it builds: ``python index_builds.py PLACE CORPUS [SECONDS PER BATCH [BATCHES BETWEEN SYNCS]]``, where
PLACE is a folder or the address of a server. It prints a line before each step.
"""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from llds.errors import LLDSError
from llds.retrieval import ChromaRetriever, ChromaServer, WordLlamaEmbedder, chroma_retriever
from llds.retrieval.corpus import check_corpus, passage_content
from llds.retrieval.index import build as index_build
from llds.retrieval.index.chroma import ChromaCollection

ROOT = Path(__file__).parents[1]


class AnnouncingEmbedder(WordLlamaEmbedder):
    """Says when it embeds, and takes its time."""

    def __init__(self, sleep_s: float):
        self.sleep_s = sleep_s

    def embed_passages(self, passages):
        """The real vectors."""
        print("embed", flush=True)
        time.sleep(self.sleep_s)
        vectors = super().embed_passages(passages)
        print("upsert", flush=True)
        return vectors


def make_retriever(place: str, corpus: Path, **settings: object) -> ChromaRetriever:
    """A retriever on a folder or a server."""
    where = {"server": ChromaServer(place)} if place.startswith("http") else {"path": place}
    return ChromaRetriever(corpus=str(corpus), **where, **settings)  # type: ignore[arg-type]


def start_build(place: str, corpus: Path, sleep_s: float = 0.0, sync_rows: int = 10_000) -> subprocess.Popen[str]:
    """Start a build in another process."""
    command = [sys.executable, "-m", "tests.index_builds", place, str(corpus), str(sleep_s), str(sync_rows)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def kill_after(build: subprocess.Popen[str], step: str, occurrence: int, delay_s: float = 0.0) -> list[str]:
    """Kill a build some time after it began a step for the n-th time; returns what it said. It may end before."""
    said: list[str] = []
    assert build.stdout is not None
    for line in build.stdout:
        said.append(line.strip())
        if said.count(step) == occurrence:
            time.sleep(delay_s)
            build.kill()
            break
    build.wait(timeout=60)
    build.stdout.close()
    return said


def check_holds_the_corpus(collection: ChromaCollection, corpus: Path) -> None:
    """Every passage is there once, with its own text and vector, and nothing else is."""
    expected = {passage.document_id: passage for passage in check_corpus(corpus)}
    ids: list[str] = []
    for offset in range(0, collection.count(), 2_000):
        page, vectors = collection.vectors(offset, 2_000)
        assert collection.passages(page) == {one: expected[one] for one in page}
        contents = [passage_content(expected[one]) for one in page]
        np.testing.assert_array_equal(vectors, WordLlamaEmbedder().embed_passages(contents))
        ids += page
    assert sorted(ids) == sorted(expected)


def main() -> None:
    """Build."""
    place, corpus, sleep_s, sync_rows = sys.argv[1:]
    index_build._MIN_UNSYNCED_ROWS, index_build._SYNCS = int(sync_rows), 1_000_000
    sync = ChromaCollection.sync
    ChromaCollection.sync = lambda self: (print("sync", flush=True), sync(self))[1]  # type: ignore[assignment, method-assign]
    chroma_retriever.check_corpus = lambda path: (print("check", flush=True), check_corpus(path))[1]  # type: ignore[attr-defined]
    try:
        make_retriever(place, Path(corpus), embedder=AnnouncingEmbedder(float(sleep_s))).build(print)
    except LLDSError as error:
        sys.exit(f"failed: {error}")


if __name__ == "__main__":
    main()

"""Several retrievers as one: their rankings fused by reciprocal rank.

A passage that several retrievers rank high comes first, whatever their scores mean: they need no common scale. Made
for BM25 beside a dense retriever (`HybridRetriever`), whose mistakes differ.
"""

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from itertools import zip_longest
from typing import Any

from llds.errors import ConfigurationError, RetrievalError
from llds.retrieval.base import Passage, Retriever
from llds.retrieval.bm25 import BM25Retriever, Language
from llds.retrieval.chroma_retriever import ChromaRetriever
from llds.retrieval.embedders.base import Embedder

_CALLS_AT_ONCE = 16


class FusionRetriever(Retriever):
    r"""Asks several retrievers at the same time and fuses their rankings.

    Reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009): a passage scores
    :math:`\sum_r 1 / (k + \mathrm{rank}_r)` over the retrievers that found it, ranks from 1. Passages are the same if
    their ids are. Equal scores: the better rank first, then the retriever that stands first in the list. One that
    fails makes the whole fail; there are no half answers.

    Args:
        retrievers: The retrievers, at least two, over one corpus.
        k: Constant of the formula; larger ones make the first ranks count less.
        depth: Number of passages that each retriever is asked for; more where more are wanted. Deep rankings favor
            what is middling in all of them over what is first in one.

    Raises:
        ConfigurationError: A value is out of its range.
    """

    def __init__(self, retrievers: list[Retriever], k: int = 60, depth: int = 10) -> None:
        if len(retrievers) < 2:
            raise ConfigurationError(
                f"Expected `retriever.retrievers` to name at least two retrievers to fuse, got {len(retrievers)}."
            )
        if k < 0 or depth < 1:
            raise ConfigurationError(f"Expected `retriever.k` >= 0 and `retriever.depth` >= 1, got {k} and {depth}.")
        self.retrievers = retrievers
        self.k = k
        self.depth = depth
        self._resources: ExitStack | None = None  # closes the retrievers and the threads
        self._threads: ThreadPoolExecutor | None = None

    def open(self) -> None:
        """Open all retrievers; if one cannot, none stays open. Nothing happens when they are.

        Raises:
            RetrievalError: One of them cannot be used.
        """
        if self._resources is not None:
            return
        with ExitStack() as stack:
            for retriever in self.retrievers:
                stack.enter_context(retriever)
            self._threads = stack.enter_context(ThreadPoolExecutor(_CALLS_AT_ONCE * len(self.retrievers)))
            self._resources = stack.pop_all()

    def close(self) -> None:
        """Close all retrievers. They can be opened again."""
        if self._resources is not None:
            self._resources.close()
            self._resources = self._threads = None

    def retrieve(self, queries: list[str], top_k: int) -> list[list[Passage]]:
        """Return the ``top_k`` passages of highest fused score; the score is that of the formula."""
        if self._threads is None:
            raise RetrievalError("Expected an open retriever, got a closed one. Call open() first.")
        depth = max(self.depth, top_k)
        calls = [self._threads.submit(retriever.retrieve, queries, depth) for retriever in self.retrievers]
        found = [call.result() for call in calls]
        return [fuse(rankings, self.k)[:top_k] for rankings in zip(*found, strict=True)]

    def describe(self) -> dict[str, Any]:
        """What decides the results: the retrievers, and how they are fused."""
        described = [retriever.describe() for retriever in self.retrievers]
        return {"retriever": "fusion", "k": self.k, "depth": self.depth, "retrievers": described}


class HybridRetriever(FusionRetriever):
    """BM25 and a dense retriever over one corpus, fused.

    Args:
        path: Folder of the two indices, ``bm25`` and ``chroma`` in it; made when missing.
        corpus: Corpus file that they hold. ``llds:...`` is inside the package.
        embedder: Embeds passages and queries of the dense one; None is `WordLlamaEmbedder`.
        language: Language of BM25's stop words and stems; None compares whole words.
        k: Constant of the fusion.
        depth: Number of passages that each is asked for.
    """

    def __init__(
        self,
        path: str,
        corpus: str,
        embedder: Embedder | None = None,
        language: Language | None = "english",
        k: int = 60,
        depth: int = 10,
    ) -> None:
        sparse = BM25Retriever(f"{path}/bm25", corpus, language=language)
        dense = ChromaRetriever(f"{path}/chroma", corpus, embedder=embedder)
        super().__init__([sparse, dense], k, depth)


def fuse(rankings: Sequence[Sequence[Passage]], k: int) -> list[Passage]:
    """Return the passages of all rankings, best fused score first.

    Args:
        rankings: Passages, best first.
        k: Constant of reciprocal rank fusion.

    Raises:
        ConfigurationError: One id stands for two passages: the retrievers hold different corpora.
    """
    scores: defaultdict[str, float] = defaultdict(float)
    passages: dict[str, Passage] = {}
    for rank, row in enumerate(zip_longest(*rankings), start=1):
        for passage in filter(None, row):
            known = passages.setdefault(passage.document_id, passage)
            if (known.title, known.text) != (passage.title, passage.text):
                raise ConfigurationError(
                    f"Expected retrievers over one corpus to fuse, got two texts of the id {passage.document_id!r}: "
                    f"{known.text[:40]!r} and {passage.text[:40]!r}. Give them the same corpus."
                )
            scores[passage.document_id] += 1 / (k + rank)
    # Sorting keeps the order of equal ones: in which they were met, rank by rank.
    best = sorted(scores, key=lambda document_id: -scores[document_id])
    return [replace(passages[document_id], score=scores[document_id]) for document_id in best]

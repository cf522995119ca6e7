"""An index that was verified and is searched: Chroma's collection, with its vectors in memory where it is small.

Opening refuses an index that would answer wrongly without a word: it counts the rows, and searches for known passages.
Left out: which index, built from what (`llds.retrieval.index.manifest`), and who asks (`ChromaRetriever`).
"""

from dataclasses import dataclass

import numpy as np

from llds.errors import RetrievalError
from llds.retrieval.base import Passage
from llds.retrieval.corpus import passage_content
from llds.retrieval.embedders.base import Embedder, Vectors
from llds.retrieval.index.chroma import ChromaCollection, ChromaDatabase
from llds.retrieval.index.exact import ExactSearch, Hit, best_first
from llds.retrieval.index.manifest import IndexManifest
from llds.retrieval.index.place import IndexPlace

_QUERY_BATCH_SIZE = 64
_PAGE_ROWS = 5_000
_PROBE_TOLERANCE = 1e-3
_TIE_MARGIN = 8
"""Hits asked of HNSW beyond top_k, so that passages of equal score at the cut are ordered by id, not by chance."""


@dataclass(frozen=True)
class OpenIndex:
    """A verified index.

    Attributes:
        collection: Texts, and the graph.
        manifest: What is in it.
        exact: The vectors; None where the graph is searched.
    """

    collection: ChromaCollection
    manifest: IndexManifest
    exact: ExactSearch | None

    def search(self, vectors: Vectors, top_k: int) -> list[list[Passage]]:
        """Return the ``top_k`` passages of largest inner product with each query ``[m, d]``."""
        results: list[list[Passage]] = []
        for start in range(0, len(vectors), _QUERY_BATCH_SIZE):
            results += self._passages(self.hits(vectors[start : start + _QUERY_BATCH_SIZE], top_k))
        return results

    def hits(self, vectors: Vectors, top_k: int) -> list[list[Hit]]:
        """Return the ``top_k`` best hits of each query ``[m, d]``, best first."""
        if self.exact is not None:
            return self.exact.search(vectors, top_k)
        found = self.collection.nearest(vectors, min(top_k + _TIE_MARGIN, self.manifest.rows))
        return [best_first(hits)[:top_k] for hits in found]

    def _passages(self, results: list[list[Hit]]) -> list[list[Passage]]:
        """Look up titles and texts of the hits, each passage once."""
        known = self.collection.passages(sorted({hit.document_id for hits in results for hit in hits}))
        return [
            [
                Passage(one.document_id, one.title, one.text, hit.score)
                for hit in hits
                for one in [known[hit.document_id]]
            ]
            for hits in results
        ]


def open_index(
    database: ChromaDatabase,
    place: IndexPlace,
    collection: str,
    manifest: IndexManifest,
    embedder: Embedder,
    exact: bool,
) -> OpenIndex:
    """Open a finished collection and verify it.

    Args:
        database: Where it is.
        place: The same, for messages.
        collection: Its name.
        manifest: What must be in it.
        embedder: The embedder it was built with.
        exact: Whether its vectors are read into memory and searched there.

    Raises:
        RetrievalError: It lost rows or vectors, or has those of another embedder.
    """
    found = database.find(collection)
    if found is None:
        raise RetrievalError(f"Expected the collection {collection!r} in {place.name}, got none. {place.way_out}")
    count = found.count()
    if count != manifest.rows:
        raise RetrievalError(f"Expected {manifest.rows:,} passages in {place.name}, got {count:,}. {place.way_out}")
    index = OpenIndex(found, manifest, _read_vectors(found, count) if exact else None)
    asked, missed = _probe(index, embedder)
    if missed:
        raise RetrievalError(
            f"Expected {asked} known passages to find themselves in {place.name}, got {missed} that did not. "
            f"{place.way_out}"
        )
    return index


def _probe(index: OpenIndex, embedder: Embedder) -> tuple[int, int]:
    """Search for known passages: each must find itself (or its equal). Returns how many were asked and missed."""
    known = index.collection.passages(index.manifest.probes).values()
    vectors = embedder.embed_passages([passage_content(passage) for passage in known])
    vectors = vectors[np.linalg.norm(vectors, axis=1) > 0]  # a passage without tokens finds nothing
    best = [hits[0].score if hits else 0.0 for hits in index.hits(vectors, top_k=1)] if len(vectors) else []
    return len(best), sum(score < 1 - _PROBE_TOLERANCE for score in best)


def _read_vectors(collection: ChromaCollection, rows: int) -> ExactSearch:
    ids: list[str] = []
    parts: list[Vectors] = []
    for offset in range(0, rows, _PAGE_ROWS):
        page_ids, vectors = collection.vectors(offset, _PAGE_ROWS)
        ids += page_ids
        parts.append(vectors)
    return ExactSearch(ids, np.concatenate(parts))

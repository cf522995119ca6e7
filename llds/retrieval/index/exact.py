"""Exact nearest passages by inner product, in memory, the same every time.

Serves collections that fit in memory (`ChromaRetriever.exact_up_to`) and checks the approximate index of larger ones
in tests and benchmarks.
"""

from dataclasses import dataclass

import numpy as np

from llds.retrieval.embedders.base import Vectors

_SCORE_TOLERANCE = 1e-5
"""More than what rounding in float32 can do to the inner product of two unit vectors."""


@dataclass(frozen=True)
class Hit:
    """A passage that was found, by id.

    Attributes:
        document_id: Its id.
        score: Inner product with the query.
    """

    document_id: str
    score: float


def best_first(hits: list[Hit]) -> list[Hit]:
    """Sort by falling score; equal scores by id, so that the order never depends on how they were found."""
    return sorted(hits, key=lambda hit: (-hit.score, hit.document_id))


class ExactSearch:
    """Scores every passage against every query.

    Results do not depend on which queries come together: a matrix product in float32 picks the candidates (whose
    rounding varies with its shape), then each candidate is scored alone in float64.

    Args:
        document_ids: Ids of the passages.
        vectors: Their unit vectors ``[n, d]``.
    """

    def __init__(self, document_ids: list[str], vectors: Vectors) -> None:
        self._document_ids = document_ids
        self._vectors = np.ascontiguousarray(vectors, dtype=np.float32)

    def search(self, queries: Vectors, top_k: int) -> list[list[Hit]]:
        """Return the ``top_k`` best hits of each query ``[m, d]``, best first."""
        top_k = min(top_k, len(self._document_ids))
        scores = queries @ self._vectors.T  # [m, n]
        thresholds = np.partition(scores, -top_k, axis=1)[:, -top_k] - _SCORE_TOLERANCE  # [m]
        candidates = [np.flatnonzero(row >= threshold) for row, threshold in zip(scores, thresholds, strict=True)]
        return [best_first(self._score(query, rows))[:top_k] for query, rows in zip(queries, candidates, strict=True)]

    def _score(self, query: Vectors, rows: np.ndarray) -> list[Hit]:
        scores = (self._vectors[rows].astype(np.float64) * query.astype(np.float64)).sum(axis=1)
        return [Hit(self._document_ids[row], float(score)) for row, score in zip(rows, scores, strict=True)]

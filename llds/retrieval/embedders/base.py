"""What an embedder is: texts in, unit vectors out.

An index holds the vectors of one embedder, and queries must be embedded by the same one: `Embedder.fingerprint` tells
two apart. Embedders that ship: `llds.retrieval.WordLlamaEmbedder`.
"""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
"""``[n, d]`` float32; each row has length 1, or is all zeros for a text without any content."""


class Embedder(ABC):
    """Turns texts into vectors whose inner product is their similarity. Must be safe to call from several threads.

    A symmetric embedder overrides `embed` only. One that treats queries and passages differently (a prefix, a second
    tower) also overrides `embed_queries` and `embed_passages`.
    """

    @property
    @abstractmethod
    def dimension(self) -> int:
        """Length ``d`` of a vector."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A string that changes whenever the vectors would: name, weights, pooling, prefixes."""

    @abstractmethod
    def embed(self, texts: list[str]) -> Vectors:
        """Return one unit vector per text; a text without content gives zeros, never NaN.

        A text's vector does not depend on the texts beside it.
        """

    def embed_queries(self, queries: list[str]) -> Vectors:
        """Return one unit vector per query. By default a query is a text like any other."""
        return self.embed(queries)

    def embed_passages(self, passages: list[str]) -> Vectors:
        """Return one unit vector per passage (title and text). By default a passage is a text like any other."""
        return self.embed(passages)


def unit_rows(vectors: Vectors) -> Vectors:
    """Scale each row to length 1; rows of zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Vectors = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return scaled

"""An embedder that is any function from texts to vectors: an API's client, a library's model, code of your own."""

import hashlib
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from llds.errors import ConfigurationError, RetrievalError
from llds.retrieval.embedders.base import Embedder, Vectors, unit_rows

_PROBES = ["Paris is the capital of France.", "The yen is the currency of Japan.", "a lake"]
_PROBE_DIGITS = 2
"""Of the values that identify a function: rounding on another machine must not change them."""


class FunctionEmbedder(Embedder):
    """Embeds with a function.

    Args:
        function: Called with a list of texts; returns as many vectors of one length, as an array or as lists. Must be
            safe to call from several threads. In YAML: the path of a function, or a ``class_path`` whose objects can
            be called.
        query_prefix: What is written before a query.
        passage_prefix: What is written before a passage.
        batch_size: Most texts per call.

    Example:
        In YAML, an embedding function of Chroma, whose model is downloaded when it is not there::

            embedder:
              class_path: llds.retrieval.FunctionEmbedder
              init_args:
                function:
                  class_path: chromadb.utils.embedding_functions.SentenceTransformerEmbeddingFunction
                  init_args: {model_name: models/my-encoder}

    Raises:
        ConfigurationError: ``batch_size`` is out of its range; or, at first use, the function gives no vectors.
    """

    def __init__(
        self,
        function: Callable[[list[str]], Any],
        query_prefix: str = "",
        passage_prefix: str = "",
        batch_size: int = 256,
    ) -> None:
        if batch_size < 1:
            raise ConfigurationError(f"Expected `embedder.batch_size` >= 1, got {batch_size}. Raise it.")
        self.function = function
        self.query_prefix = query_prefix
        self.passage_prefix = passage_prefix
        self.batch_size = batch_size

    @property
    def dimension(self) -> int:
        """Length of the vectors that the function gives."""
        return int(self._probed.shape[1])

    @cached_property
    def fingerprint(self) -> str:
        """The prefixes, and a hash of the vectors of a few texts, rounded: nothing else tells functions apart."""
        rounded = np.round(unit_rows(self._probed), _PROBE_DIGITS) + 0.0  # + 0.0: there is one zero
        digest = hashlib.sha256(rounded.tobytes()).hexdigest()[:16]
        return f"function/{self.query_prefix!r}+{self.passage_prefix!r}/{digest}"

    def embed(self, texts: list[str]) -> Vectors:
        """Return one unit vector per text ``[n, d]``.

        Raises:
            RetrievalError: The function gives something else.
        """
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for start in range(0, len(texts), self.batch_size):
            batch = texts[start : start + self.batch_size]
            found = self._call(batch)
            if found.shape != (len(batch), self.dimension) or not np.isfinite(found).all():
                raise RetrievalError(
                    f"Expected {len(batch)} finite vectors of length {self.dimension} from the embedding function, got "
                    f"shape {found.shape}{'' if np.isfinite(found).all() else ' with NaN or infinity'}."
                )
            vectors[start : start + len(batch)] = found
        return unit_rows(vectors)

    def embed_queries(self, queries: list[str]) -> Vectors:
        """Return one unit vector per query, its prefix added."""
        return self.embed([self.query_prefix + query for query in queries])

    def embed_passages(self, passages: list[str]) -> Vectors:
        """Return one unit vector per passage, its prefix added."""
        return self.embed([self.passage_prefix + passage for passage in passages])

    def _call(self, texts: list[str]) -> Vectors:
        try:
            return np.asarray(self.function(texts), dtype=np.float32)
        except Exception as error:  # extension code: whatever it raises is a failure of the retriever
            raise RetrievalError(f"The embedding function raised {type(error).__name__}: {error}.") from error

    @cached_property
    def _probed(self) -> Vectors:
        try:
            vectors = self._call(_PROBES)
        except RetrievalError as error:
            raise ConfigurationError(f"Expected `embedder.function` to embed texts, got: {error}") from error
        if vectors.ndim != 2 or len(vectors) != len(_PROBES) or vectors.shape[1] < 1 or not np.isfinite(vectors).all():
            raise ConfigurationError(
                f"Expected `embedder.function` to give {len(_PROBES)} finite vectors for {len(_PROBES)} texts, got "
                f"shape {vectors.shape}."
            )
        return vectors

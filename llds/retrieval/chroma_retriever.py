"""The Chroma retriever: a collection in a folder of this machine, or on a Chroma server.

Builds its index from a corpus file when it is missing, refuses one that is damaged or was built from something else,
and finds the same passages for the same query every time. Stands behind the search tool; the retrieval callback opens
and closes it. Left out: Chroma's ways (`llds.retrieval.index.chroma`) and the build (`llds.retrieval.index.build`).
"""

import logging
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from llds.errors import ConfigurationError, RetrievalError
from llds.files import file_hash
from llds.paths import resolve_path
from llds.retrieval.base import Passage, Retriever
from llds.retrieval.corpus import check_corpus
from llds.retrieval.embedders.base import Embedder
from llds.retrieval.embedders.wordllama import WordLlamaEmbedder
from llds.retrieval.index.build import IndexRecipe, fill_index
from llds.retrieval.index.chroma import ChromaDatabase
from llds.retrieval.index.chroma_server import ChromaServer
from llds.retrieval.index.folder import IndexFolder
from llds.retrieval.index.manifest import IndexManifest
from llds.retrieval.index.open import OpenIndex, open_index
from llds.retrieval.index.place import IndexPlace
from llds.retrieval.index.progress import progress_bar
from llds.retrieval.index.server import IndexOnServer
from llds.retrieval.index.size import check_memory

_log = logging.getLogger(__name__)


class ChromaRetriever(Retriever):
    """Retrieves from a Chroma collection, in a folder (``path``) or on a Chroma server (``server``).

    A collection of up to ``exact_up_to`` passages is scored exactly, in memory, from the vectors that Chroma stores:
    at that size this is as fast as HNSW, misses nothing, and a folder and a server answer alike to the bit. A larger
    one is searched with Chroma's HNSW graph, which is approximate; Chroma inserts the rows of a batch in random order,
    so that two builds of one corpus can differ in a few answers, while one index always answers alike.

    Args:
        path: Folder of the index, one collection each; made when missing. ``llds:...`` is inside the package. None
            where a server has it.
        corpus: Corpus file (jsonl, also in gzip, or parquet) that the index holds and is built from when missing.
            ``llds:...`` is inside the package, ``hf://datasets/...`` on the hub. None takes the index as it is: it must
            exist.
        embedder: Embeds passages and queries; None is `WordLlamaEmbedder`.
        server: The Chroma server; None where a folder has the index.
        collection: Name of the Chroma collection.
        exact_up_to: Largest number of passages that is scored exactly; 4 bytes x dimension of memory each, and one
            transfer of that size from a server. 0 always uses HNSW.
        max_neighbors: HNSW links per passage; more find more and cost memory.
        ef_construction: HNSW candidates while building; more find more and build slower.
        ef_search: HNSW candidates while searching; more find more and answer slower.

    Raises:
        ConfigurationError: A number is out of its range, or not exactly one of path and server is given.

    Example:
        ::

            with ChromaRetriever("runs/index", "corpus.jsonl") as retriever:
                [passages] = retriever.retrieve(["capital of France"], top_k=3)
    """

    def __init__(
        self,
        path: str | None = None,
        corpus: str | None = None,
        embedder: Embedder | None = None,
        server: ChromaServer | None = None,
        collection: str = "passages",
        exact_up_to: int = 50_000,
        max_neighbors: int = 16,
        ef_construction: int = 200,
        ef_search: int = 400,
    ) -> None:
        for name, value, least in (
            ("exact_up_to", exact_up_to, 0),
            ("max_neighbors", max_neighbors, 2),
            ("ef_construction", ef_construction, 1),
            ("ef_search", ef_search, 1),
        ):
            if value < least:
                raise ConfigurationError(f"Expected `retriever.{name}` >= {least}, got {value}. Raise it.")
        if (path is None) == (server is None):
            got = "neither" if path is None else "both"
            raise ConfigurationError(
                f"Expected one of `retriever.path` (a folder) and `retriever.server`, got {got}. Set one "
                "of them to null."
            )
        self.corpus = resolve_path(corpus) if corpus is not None else None
        self.embedder = embedder or WordLlamaEmbedder()
        self.server = server
        self.collection = collection
        self.exact_up_to = exact_up_to
        self.place: IndexPlace
        if server is not None:
            self.place = IndexOnServer(server, collection)
        else:
            self.place = IndexFolder(resolve_path(path or "."))
        self._hnsw = {
            "space": "ip",
            "max_neighbors": max_neighbors,
            "ef_construction": ef_construction,
            "ef_search": ef_search,
        }
        self._index: OpenIndex | None = None
        self._connection = ExitStack()

    def open(self) -> None:
        """Build the index when it is missing, verify it, and get ready to answer. Nothing happens when it is open.

        Raises:
            RetrievalError: The index is damaged or was built from another corpus or with other settings, there is no
                room for it, or the server does not answer.
            DataError: The corpus cannot be used.
        """
        if self._index is not None:
            return
        with self.place.lock():
            if self.place.read_manifest() is None:
                self._build(_log.info)
            self._index = self._load()

    def plan(self, report: Callable[[str], None]) -> IndexRecipe:
        """Check the corpus, and that there is room for its index, without building it.

        Args:
            report: Takes what there is to say: how many passages, how much memory and disk.

        Raises:
            DataError: The corpus cannot be used.
            RetrievalError: There is not enough memory or disk, or no corpus.
        """
        if self.corpus is None:
            raise RetrievalError(
                f"Expected an index, got none: {self.place.name} does not exist, and there is no `retriever.corpus` to "
                "build it from. Correct the place or name a corpus."
            )
        corpus = check_corpus(self.corpus)
        recipe = IndexRecipe(self.collection, corpus, self.embedder, self._hnsw, self._settings(corpus.file_hash))
        repeated = f"; {len(corpus.merged):,} more repeat an earlier one and are left out" if corpus.merged else ""
        report(f"{corpus.rows:,} passages{repeated}.")
        self.place.check_room(recipe.size(is_exact=corpus.rows <= self.exact_up_to), report)
        return recipe

    def build(self, report: Callable[[str], None]) -> bool:
        """Build the index where it is missing, without opening it.

        Args:
            report: Takes what there is to say: what it needs and how long it took.

        Returns:
            Whether there was none.

        Raises:
            DataError: The corpus cannot be used.
            RetrievalError: There is not enough memory or disk, or Chroma failed.
        """
        with self.place.lock():
            is_missing = self.place.read_manifest() is None
            if is_missing:
                self._build(report)
        return is_missing

    def remove(self) -> None:
        """Delete the index, finished or half-built."""
        with self.place.lock():
            self.place.remove()

    def close(self) -> None:
        """Release the collection. A closed retriever can be opened again."""
        if self._index is not None:
            self._connection.close()
            self._index = None

    def retrieve(self, queries: list[str], top_k: int) -> list[list[Passage]]:
        """Return the ``top_k`` passages of largest cosine similarity to each query; equal ones ordered by id."""
        index = self._opened()
        if top_k < 1:
            raise ConfigurationError(f"Expected `top_k` >= 1, got {top_k}. Ask for at least one passage.")
        vectors = self.embedder.embed_queries(queries)
        return index.search(vectors, top_k)

    def describe(self) -> dict[str, Any]:
        """What decides the results, the same for a folder and a server. Needs an open retriever.

        ``corpus`` is a hash of the passages, whatever file they came in; ``hnsw`` is there only where the graph is
        searched.
        """
        index = self._opened()
        settings = index.manifest.settings
        return {
            "retriever": "chroma",
            "search": "exact" if index.exact is not None else "hnsw",
            "rows": index.manifest.rows,
            "corpus": index.manifest.passages_hash,
            "embedder": settings["embedder"],
            "dimension": settings["dimension"],
            "space": settings["hnsw"]["space"],
            **({} if index.exact is not None else {"hnsw": settings["hnsw"]}),
        }

    def _settings(self, corpus_hash: str | None) -> dict[str, Any]:
        return {
            "corpus": corpus_hash,
            "embedder": self.embedder.fingerprint,
            "dimension": self.embedder.dimension,
            "hnsw": dict(self._hnsw),
        }

    def _opened(self) -> OpenIndex:
        if self._index is None:
            raise RetrievalError(
                f"Expected an open retriever, got a closed one ({self.place.name}). Call open() first."
            )
        return self._index

    def _build(self, report: Callable[[str], None]) -> None:
        report(f"Building {self.place.name} from {self.corpus}.")
        start = time.monotonic()
        recipe = self.plan(report)
        rows = recipe.corpus.rows

        def fill(database: ChromaDatabase) -> IndexManifest:
            with progress_bar(rows) as advance:
                return fill_index(database, recipe, os.uname().nodename, advance)

        self.place.build(fill)
        report(f"Built {self.place.name}: {rows:,} passages in {time.monotonic() - start:.1f} s.")

    def _load(self) -> OpenIndex:
        manifest = self.place.read_manifest()
        if manifest is None:
            raise RetrievalError(f"Expected {self.place.name}, got nothing: it was removed. Open it again.")
        settings = self._settings(file_hash(self.corpus) if self.corpus is not None else None)
        manifest.verify_settings(settings, self.place.name, self.place.way_out)
        self.place.verify_files(manifest)
        is_small = manifest.rows <= self.exact_up_to
        if is_small or self.server is None:  # else the server holds it
            check_memory(manifest.size(is_small).search_memory, "searching the index", _log.info)
        with ExitStack() as stack:
            database = stack.enter_context(self.place.connect())
            index = open_index(database, self.place, self.collection, manifest, self.embedder, is_small)
            if self.server is not None:
                database.limit_waiting(self.server.timeout_s)
            self._connection = stack.pop_all()  # nothing failed: the client stays open until close()
        return index

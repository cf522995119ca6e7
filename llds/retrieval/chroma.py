"""The Chroma retriever: an embedded, persistent collection. The only file that imports chromadb.

Builds its index from a corpus file when it is missing, refuses one that is damaged or was built from something else,
and finds the same passages for the same query every time. Stands behind the search tool; the retrieval callback opens
and closes it. Left out: Chroma servers, and indices too large to build at start-up.

What Chroma does by itself that this file prevents: it downloads an embedding function, sends telemetry, ignores `add`
of a known id, refuses large batches, answers wrongly without a word when files of its HNSW index are lost, and replays
rows that it had not synced yet in random order at every start, which changes the answers.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from llds.errors import ConfigurationError, RetrievalError
from llds.paths import resolve_path
from llds.retrieval.base import Passage, Retriever
from llds.retrieval.corpus import corpus_hash, passage_content, read_corpus
from llds.retrieval.embedders import Embedder, Vectors
from llds.retrieval.exact_search import ExactSearch, Hit, best_first
from llds.retrieval.index_folder import IndexManifest, index_build, index_lock, read_manifest, way_out
from llds.retrieval.wordllama_embedder import WordLlamaEmbedder

if TYPE_CHECKING:
    from chromadb.api.client import Client
    from chromadb.api.models.Collection import Collection

_log = logging.getLogger(__name__)

_BUILD_BATCH_SIZE = 5_000
_QUERY_BATCH_SIZE = 64
_PROBES = 16
_PROBE_TOLERANCE = 1e-3
_TIE_MARGIN = 8
"""Hits asked of HNSW beyond top_k, so that passages of equal score at the cut are ordered by id, not by chance."""


@dataclass(frozen=True)
class _OpenIndex:
    connection: ExitStack  # closes the client
    collection: "Collection"
    manifest: IndexManifest
    exact: ExactSearch | None


class ChromaRetriever(Retriever):
    """Retrieves from a Chroma collection on this machine's disk.

    A collection of up to ``exact_up_to`` passages is scored exactly, in memory, from the vectors that Chroma stores:
    at that size this is as fast as HNSW, misses nothing, and two builds answer alike. A larger one is searched with
    Chroma's HNSW graph, which is approximate; Chroma inserts the rows of a batch in random order, so that two builds
    of one corpus can differ in a few answers, while one index always answers alike.

    Args:
        path: Folder of the index, one collection each; made when missing. ``llds:...`` is inside the package.
        corpus: Corpus file (``.jsonl`` or ``.jsonl.gz``) that the index holds. ``llds:...`` is inside the package.
        embedder: Embeds passages and queries; None is `WordLlamaEmbedder`.
        collection: Name of the Chroma collection.
        exact_up_to: Largest number of passages that is scored exactly; 4 bytes x dimension of memory each. 0 always
            uses HNSW.
        max_neighbors: HNSW links per passage; more find more and cost memory.
        ef_construction: HNSW candidates while building; more find more and build slower.
        ef_search: HNSW candidates while searching; more find more and answer slower.

    Raises:
        ConfigurationError: A number is out of its range.

    Example:
        ::

            with ChromaRetriever("runs/index", "corpus.jsonl") as retriever:
                [passages] = retriever.retrieve(["capital of France"], top_k=3)
    """

    def __init__(
        self,
        path: str,
        corpus: str,
        embedder: Embedder | None = None,
        collection: str = "passages",
        exact_up_to: int = 50_000,
        max_neighbors: int = 16,
        ef_construction: int = 200,
        ef_search: int = 400,
    ):
        for name, value, least in (
            ("exact_up_to", exact_up_to, 0),
            ("max_neighbors", max_neighbors, 2),
            ("ef_construction", ef_construction, 1),
            ("ef_search", ef_search, 1),
        ):
            if value < least:
                raise ConfigurationError(f"Expected `retriever.{name}` >= {least}, got {value}. Raise it.")
        self.path = resolve_path(path).absolute()
        self.corpus = resolve_path(corpus)
        self.embedder = embedder or WordLlamaEmbedder()
        self.collection = collection
        self.exact_up_to = exact_up_to
        self._hnsw = {
            "space": "ip",
            "max_neighbors": max_neighbors,
            "ef_construction": ef_construction,
            "ef_search": ef_search,
        }
        self._index: _OpenIndex | None = None

    def open(self) -> None:
        """Build the index when it is missing, verify it, and get ready to answer. Nothing happens when it is open.

        Raises:
            RetrievalError: The index is damaged or was built from another corpus or with other settings.
            DataError: The corpus cannot be used.
        """
        if self._index is not None:
            return
        settings = self._settings()
        with index_lock(self.path), _chroma_errors(self.path):
            if read_manifest(self.path) is None:
                self._build(settings)
            self._index = self._load(settings)

    def close(self) -> None:
        """Release the collection. A closed retriever can be opened again."""
        if self._index is not None:
            self._index.connection.close()
            self._index = None

    def retrieve(self, queries: list[str], top_k: int) -> list[list[Passage]]:
        """Return the ``top_k`` passages of largest cosine similarity to each query; equal ones ordered by id."""
        index = self._opened()
        if top_k < 1:
            raise ConfigurationError(f"Expected `top_k` >= 1, got {top_k}. Ask for at least one passage.")
        vectors = self.embedder.embed_queries(queries)
        results: list[list[Passage]] = []
        with _chroma_errors(self.path):
            for start in range(0, len(queries), _QUERY_BATCH_SIZE):
                hits = _search(index, vectors[start : start + _QUERY_BATCH_SIZE], top_k)
                results += _passages(index.collection, hits)
        return results

    def describe(self) -> dict[str, Any]:
        """What decides the results: corpus, embedder, size and search settings. Needs an open retriever."""
        index = self._opened()
        return {
            "retriever": "chroma",
            "search": "exact" if index.exact is not None else "hnsw",
            "rows": index.manifest.rows,
            **index.manifest.settings,
        }

    def _settings(self) -> dict[str, Any]:
        return {
            "collection": self.collection,
            "corpus": corpus_hash(self.corpus),
            "embedder": self.embedder.fingerprint,
            "dimension": self.embedder.dimension,
            "hnsw": dict(self._hnsw),
        }

    def _opened(self) -> _OpenIndex:
        if self._index is None:
            raise RetrievalError(f"Expected an open retriever, got a closed one ({self.path}). Call open() first.")
        return self._index

    def _build(self, settings: dict[str, Any]) -> None:
        _log.info("Building the Chroma index %s from %s.", self.path, self.corpus)
        start = time.monotonic()
        with index_build(self.path) as folder:
            with _connection(folder) as client:
                collection = client.create_collection(
                    self.collection,
                    # Sync every batch: rows that are not synced are replayed in random order at every start.
                    configuration={"hnsw": {**self._hnsw, "sync_threshold": 2}},  # type: ignore[arg-type]
                    embedding_function=None,
                )
                rows = _fill(collection, read_corpus(self.corpus), self.embedder, client.get_max_batch_size())
                count = min(_PROBES, rows)
                probes = [_id_at(collection, rows * number // count) for number in range(count)]
            IndexManifest(settings, rows, probes, _vector_file_bytes(folder)).write(folder)
        _log.info("Built the Chroma index: %d passages in %.1f s.", rows, time.monotonic() - start)

    def _load(self, settings: dict[str, Any]) -> _OpenIndex:
        manifest = read_manifest(self.path)
        if manifest is None:
            raise RetrievalError(f"Expected an index in {self.path}, got nothing: it was removed. Open it again.")
        manifest.verify(self.path, settings)
        with ExitStack() as stack:
            client = stack.enter_context(_connection(self.path))
            collection = client.get_collection(self.collection, embedding_function=None)
            self._expect(collection.count() == manifest.rows, f"{manifest.rows:,} passages", f"{collection.count():,}")
            exact = _read_vectors(collection, manifest.rows) if manifest.rows <= self.exact_up_to else None
            index = _OpenIndex(ExitStack(), collection, manifest, exact)
            self._probe(index)
            index.connection.push(stack.pop_all())  # nothing failed: the client stays open until close()
        return index

    def _probe(self, index: _OpenIndex) -> None:
        """Search for known passages: each must find itself (or its equal). Catches what counts and sizes cannot."""
        known = [passage for [passage] in _passages(index.collection, [[Hit(i, 0.0)] for i in index.manifest.probes])]
        vectors = self.embedder.embed_passages([passage_content(passage) for passage in known])
        vectors = vectors[np.linalg.norm(vectors, axis=1) > 0]  # a passage without tokens finds nothing
        if not len(vectors):
            return
        best = [hits[0].score if hits else 0.0 for hits in _search(index, vectors, top_k=1)]
        missed = sum(score < 1 - _PROBE_TOLERANCE for score in best)
        self._expect(missed == 0, f"{len(best)} known passages to find themselves", f"{missed} that did not")

    def _expect(self, holds: bool, expected: str, got: str) -> None:
        if not holds:
            raise RetrievalError(f"Expected {expected} in the index {self.path}, got {got}. {way_out(self.path)}")


@contextmanager
def _connection(folder: Path) -> Iterator["Client"]:
    """A client on a folder. Closed at the end: Chroma keeps one system per path and process until its last client."""
    # Imported here: chromadb takes a second, which `llds --help` and every test would pay.
    import chromadb
    from chromadb.config import Settings

    client = cast("Client", chromadb.PersistentClient(str(folder), settings=Settings(anonymized_telemetry=False)))
    try:
        yield client
    finally:
        client.close()


@contextmanager
def _chroma_errors(path: Path) -> Iterator[None]:
    """Turn Chroma's own errors into ours, with what to do."""
    from chromadb.errors import ChromaError

    try:
        yield
    except ChromaError as error:
        raise RetrievalError(
            f"Expected the index {path} to answer, got {type(error).__name__}: {error}. {way_out(path)}"
        ) from error


def _fill(collection: "Collection", passages: Iterator[Passage], embedder: Embedder, max_batch_size: int) -> int:
    rows = 0
    while batch := list(islice(passages, min(_BUILD_BATCH_SIZE, max_batch_size))):
        collection.upsert(
            ids=[passage.document_id for passage in batch],
            embeddings=embedder.embed_passages([passage_content(passage) for passage in batch]),
            # Not as `documents`: Chroma would index every three letters of them, for twice the time and disk.
            metadatas=[{"title": passage.title, "text": passage.text} for passage in batch],
        )
        rows += len(batch)
    return rows


def _id_at(collection: "Collection", offset: int) -> str:
    return collection.get(limit=1, offset=offset, include=[])["ids"][0]


def _vector_file_bytes(folder: Path) -> dict[str, int]:
    """Sizes of the HNSW files, which lie in one folder per collection; the SQLite file may change when it is read."""
    return {str(file.relative_to(folder)): file.stat().st_size for file in sorted(folder.glob("*/*"))}


def _read_vectors(collection: "Collection", rows: int) -> ExactSearch:
    ids: list[str] = []
    parts: list[Vectors] = []
    for offset in range(0, rows, _BUILD_BATCH_SIZE):
        page = collection.get(limit=_BUILD_BATCH_SIZE, offset=offset, include=["embeddings"])
        ids += page["ids"]
        parts.append(np.asarray(page["embeddings"], dtype=np.float32))
    return ExactSearch(ids, np.concatenate(parts))


def _search(index: _OpenIndex, vectors: Vectors, top_k: int) -> list[list[Hit]]:
    if index.exact is not None:
        return index.exact.search(vectors, top_k)
    reply = index.collection.query(
        query_embeddings=vectors, n_results=min(top_k + _TIE_MARGIN, index.manifest.rows), include=["distances"]
    )
    results = []
    for ids, distances in zip(reply["ids"], reply["distances"] or [], strict=True):
        hits = [Hit(document_id, 1.0 - distance) for document_id, distance in zip(ids, distances, strict=True)]
        results.append(best_first(hits)[:top_k])
    return results


def _passages(collection: "Collection", results: list[list[Hit]]) -> list[list[Passage]]:
    """Look up titles and texts of the hits, each passage once."""
    wanted = sorted({hit.document_id for hits in results for hit in hits})
    reply = collection.get(ids=wanted, include=["metadatas"])
    rows = zip(reply["ids"], reply["metadatas"] or [], strict=True)
    known = {document_id: (str(fields["title"]), str(fields["text"])) for document_id, fields in rows}
    if len(known) < len(wanted):
        missing = sorted(set(wanted) - known.keys())
        raise RetrievalError(f"Expected passages {missing[:3]} in the collection, got none: the index is damaged.")
    return [[Passage(hit.document_id, *known[hit.document_id], score=hit.score) for hit in hits] for hits in results]

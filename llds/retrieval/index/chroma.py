"""Chroma, as far as an index needs it: databases in a folder or behind a server, collections of passages.

The only file that imports chromadb. What Chroma does by itself that this file prevents: it downloads an embedding
function, sends telemetry, ignores `add` of a known id, refuses large batches, waits for a server without an end, and
replays rows that it had not synced yet in random order at every start, which changes the answers. Its errors, and
those of the connection, come out as `RetrievalError`.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from llds.errors import RetrievalError, RetrieverUnavailableError
from llds.retrieval.base import Passage
from llds.retrieval.embedders.base import Vectors
from llds.retrieval.index.chroma_server import ChromaServer, check_server
from llds.retrieval.index.exact import Hit

if TYPE_CHECKING:
    from chromadb.api.client import Client
    from chromadb.api.models.Collection import Collection

_log = logging.getLogger(__name__)

_NOTHING = "\x00no passage "
_CONNECTIONS = 64


class ChromaCollection:
    """A collection of passages and their vectors.

    Args:
        collection: Chroma's own.
        place: What messages call the place where it is, with what to do about it.
        max_batch_size: Most rows that Chroma takes at once.
    """

    def __init__(self, collection: "Collection", place: "_Place", max_batch_size: int) -> None:
        self._collection = collection
        self._place = place
        self.max_batch_size = max_batch_size

    @property
    def name(self) -> str:
        """Its name in the database."""
        return self._collection.name

    @property
    def metadata(self) -> dict[str, Any]:
        """What was stored with the collection."""
        return dict(self._collection.metadata or {})

    def count(self) -> int:
        """Number of passages."""
        with self._place.errors():
            return self._collection.count()

    def upsert(self, passages: list[Passage], vectors: Vectors) -> None:
        """Add passages or replace those with the same ids."""
        with self._place.errors():
            self._collection.upsert(
                ids=[passage.document_id for passage in passages],
                embeddings=vectors,
                # Not as `documents`: Chroma would index every three letters of them, for twice the time and disk.
                metadatas=[{"title": passage.title, "text": passage.text} for passage in passages],
            )

    def sync(self) -> None:
        """Have all rows written to the files of the HNSW graph, so that nothing is replayed at the next start.

        Chroma syncs by itself when ``sync_threshold`` operations have come in since the last time. What is missing is
        filled up with deletions of ids that do not exist.
        """
        threshold = self._collection.configuration["hnsw"]["sync_threshold"]  # type: ignore[index]
        with self._place.errors():
            for start in range(0, threshold, self.max_batch_size):
                count = min(self.max_batch_size, threshold - start)
                self._collection.delete(ids=[f"{_NOTHING}{start + number}" for number in range(count)])

    def rename(self, name: str, metadata: dict[str, str]) -> None:
        """Give the collection its name and what is stored with it, at once."""
        with self._place.errors():
            self._collection.modify(name=name, metadata=cast(Any, metadata))

    def ids(self, offset: int, limit: int) -> list[str]:
        """Ids of a page of the collection, in a fixed order."""
        with self._place.errors():
            return self._collection.get(limit=limit, offset=offset, include=[])["ids"]

    def vectors(self, offset: int, limit: int) -> tuple[list[str], Vectors]:
        """Ids and vectors ``[n, d]`` of a page of the collection, to the bit as they were added."""
        with self._place.errors():
            page = self._collection.get(limit=limit, offset=offset, include=["embeddings"])
            return page["ids"], np.asarray(page["embeddings"], dtype=np.float32)

    def passages(self, document_ids: list[str]) -> dict[str, Passage]:
        """The passages with these ids.

        Raises:
            RetrievalError: One is missing.
        """
        with self._place.errors():
            reply = self._collection.get(ids=document_ids, include=["metadatas"])
            rows = zip(reply["ids"], reply["metadatas"] or [], strict=True)
            found = {i: Passage(i, str(fields["title"]), str(fields["text"])) for i, fields in rows}
        missing = sorted(set(document_ids) - found.keys())
        if missing:
            raise RetrievalError(f"Expected passages {missing[:3]} in {self._place.name}, got none: it is damaged.")
        return found

    def nearest(self, queries: Vectors, limit: int) -> list[list[Hit]]:
        """Search the HNSW graph for the largest inner products with each query ``[m, d]``."""
        with self._place.errors():
            reply = self._collection.query(query_embeddings=queries, n_results=limit, include=["distances"])
            rows = zip(reply["ids"], reply["distances"] or [], strict=True)
            return [[Hit(i, 1.0 - one) for i, one in zip(ids, distances, strict=True)] for ids, distances in rows]


class ChromaDatabase:
    """The collections in a folder or behind a server.

    Args:
        client: Chroma's own.
        place: What messages call it, with what to do about it.
    """

    def __init__(self, client: "Client", place: "_Place") -> None:
        self._client = client
        self._place = place
        with place.errors():
            self._max_batch_size = client.get_max_batch_size()

    def find(self, name: str) -> ChromaCollection | None:
        """Return a collection, None where there is none of that name."""
        from chromadb.errors import NotFoundError

        with self._place.errors():
            try:
                collection = self._client.get_collection(name, embedding_function=None)
            except NotFoundError:
                return None
        return ChromaCollection(collection, self._place, self._max_batch_size)

    def create(self, name: str, hnsw: dict[str, Any], metadata: dict[str, str]) -> ChromaCollection:
        """Make a collection; there must be none of that name."""
        with self._place.errors():
            collection = self._client.create_collection(
                name,
                metadata=cast(Any, metadata),
                configuration=cast(Any, {"hnsw": hnsw}),
                embedding_function=None,
            )
        return ChromaCollection(collection, self._place, self._max_batch_size)

    def delete(self, name: str) -> None:
        """Delete a collection."""
        with self._place.errors():
            self._client.delete_collection(name)

    def limit_waiting(self, timeout_s: float) -> None:
        """Wait at most so long for a server from now on; of no effect on a folder."""
        # chromadb gives no other way to it; its client waits for ever.
        if self._place.server is not None:
            self._client._server._session.timeout = timeout_s  # type: ignore[attr-defined]


@dataclass(frozen=True)
class _Place:
    """Where a database is, for messages."""

    name: str
    way_out: str  # of an index that cannot be used
    server: ChromaServer | None = None

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn the errors of Chroma into ours, with what to do."""
        try:
            yield
        except RetrievalError:
            raise
        except Exception as error:  # Chroma raises bare ones, httpx's and orjson's: its calls have no narrower class
            detail = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            is_unreachable = self.server is not None and type(error).__module__.partition(".")[0] == "httpx"
            advice = self.server.way_out if self.server is not None and is_unreachable else self.way_out
            kind = RetrieverUnavailableError if is_unreachable else RetrievalError
            raise kind(f"Expected {self.name} to answer, got {detail}. {advice}") from error


@contextmanager
def connect_folder(folder: Path, name: str, way_out: str) -> Iterator[ChromaDatabase]:
    """Open the database in a folder; closed at the end.

    Args:
        folder: The folder; made where it is missing.
        name: What messages call it.
        way_out: What to do about an index that cannot be used.
    """
    # Imported here: chromadb takes a second, which `llds --help` and every test would pay.
    import chromadb
    from chromadb.config import Settings

    place = _Place(name, way_out)
    with place.errors():
        client = cast("Client", chromadb.PersistentClient(str(folder), settings=Settings(anonymized_telemetry=False)))
    try:
        yield ChromaDatabase(client, place)
    finally:
        client.close()  # Chroma keeps one system per path and process until its last client


@contextmanager
def connect_server(server: ChromaServer, timeout_s: float, way_out: str) -> Iterator[ChromaDatabase]:
    """Connect to a server; closed at the end.

    Args:
        server: Its address.
        timeout_s: Longest wait for a reply, in seconds, until `ChromaDatabase.limit_waiting`.
        way_out: What to do about an index that cannot be used.

    Raises:
        RetrievalError: There is no server, or it is none of Chroma.
    """
    import chromadb
    from chromadb.config import Settings

    check_server(server)
    place = _Place(server.name, way_out, server)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every request
    with place.errors():
        client = cast(
            "Client",
            chromadb.HttpClient(
                host=server.host,
                port=server.port,
                ssl=server.is_encrypted,
                headers=server.headers(),
                settings=Settings(anonymized_telemetry=False, chroma_http_max_connections=_CONNECTIONS),
                tenant=server.tenant,
                database=server.database,
            ),
        )
    try:
        database = ChromaDatabase(client, place)
        database.limit_waiting(timeout_s)
        yield database
    finally:
        client.close()

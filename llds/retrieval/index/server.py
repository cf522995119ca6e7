"""An index in a collection of a Chroma server that is either whole or not there under its name.

It is built as ``NAME.building`` and renamed when it is complete, which a server does at once; the manifest is in the
collection's metadata. A lock lets one process of a machine build while the others wait; a build on another machine is
waited for while it makes progress. Should two builds run all the same, they write the same rows under the same ids.
"""

import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from llds.errors import RetrievalError
from llds.retrieval.index.build import MANIFEST_KEY, building_name
from llds.retrieval.index.chroma import ChromaDatabase, connect_server
from llds.retrieval.index.chroma_server import ChromaServer
from llds.retrieval.index.folder import file_lock
from llds.retrieval.index.manifest import IndexManifest
from llds.retrieval.index.place import IndexPlace
from llds.retrieval.index.size import IndexSize, check_memory, written_bytes

_log = logging.getLogger(__name__)

_OPENING_TIMEOUT_S = 600.0
"""A server reads a large graph from disk at its first query, and writes it while it takes rows."""
_LOOK_EVERY_S = 5.0
_STALLED_AFTER_S = 120.0


class IndexOnServer(IndexPlace):
    """An index in a collection of a Chroma server.

    Args:
        server: The server.
        collection: Name of the collection.
    """

    def __init__(self, server: ChromaServer, collection: str) -> None:
        self.server = server
        self.collection = collection
        self.name = f"the collection {collection} of {server.name}"
        self.way_out = "Set another `retriever.collection`, or build it anew: llds index -c FILE --overwrite."

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the collection for this process; see `IndexPlace.lock`."""
        identity = f"{self.server.url} {self.server.tenant} {self.server.database} {self.collection}"
        digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
        with file_lock(Path(tempfile.gettempdir()) / f"llds-{os.getuid()}-{digest}.lock", self.name):
            yield

    def connect(self) -> AbstractContextManager[ChromaDatabase]:
        """Connect to the server."""
        return connect_server(self.server, _OPENING_TIMEOUT_S, self.way_out)

    def read_manifest(self) -> IndexManifest | None:
        """Return the manifest, None where there is no such collection.

        Raises:
            RetrievalError: The collection was made by something else, or the server does not answer.
        """
        with self.connect() as database:
            collection = database.find(self.collection)
        if collection is None:
            return None
        try:
            return IndexManifest.from_json(str(collection.metadata[MANIFEST_KEY]))
        except (KeyError, ValueError) as error:
            raise RetrievalError(
                f"Expected {self.name} to be an index of llds, got one without a manifest that can be read ({error}). "
                f"Nothing was changed. {self.way_out}"
            ) from error

    def verify_files(self, manifest: IndexManifest) -> None:
        """Nothing: a server's files are not seen from here, the probes must do."""

    def check_room(self, size: IndexSize, report: Callable[[str], None]) -> None:
        """Say what the server's machine needs; checked where that is this machine."""
        report(f"{self.server.name} will need {written_bytes(size.disk)} of disk for it.")
        if self.server.host in ("localhost", "127.0.0.1", "::1"):
            check_memory(size.build_memory, "the server", report)
        else:
            report(f"The server will need {written_bytes(size.build_memory)} of memory.")

    def build(self, fill: Callable[[ChromaDatabase], IndexManifest]) -> None:
        """See `IndexPlace.build`. Call it under `lock`."""
        with self.connect() as database:
            self._wait_for_others(database)
            if database.find(self.collection) is None:
                fill(database)

    def remove(self) -> None:
        """Delete the collection, finished or half-built.

        Raises:
            RetrievalError: It was made by something else, or the server does not answer.
        """
        with self.connect() as database:
            found = [database.find(name) for name in (self.collection, building_name(self.collection))]
            if found[0] is not None and MANIFEST_KEY not in found[0].metadata:
                raise RetrievalError(
                    f"Expected {self.name} to be an index of llds, got one of another program. Nothing was deleted."
                )
            for collection in filter(None, found):
                database.delete(collection.name)

    def _wait_for_others(self, database: ChromaDatabase) -> None:
        """Return when no other machine makes progress with this collection.

        A build that was killed is one that stands still; nothing tells the two apart at once but its host.
        """
        seen, since = -1, time.monotonic()
        while (half := database.find(building_name(self.collection))) is not None:
            if half.metadata.get("host") == os.uname().nodename:  # of this machine, where we hold the lock
                return
            rows = half.count()
            if rows != seen:
                _log.info("Another machine builds %s: %d passages so far, waiting for it.", self.name, rows)
                seen, since = rows, time.monotonic()
            if time.monotonic() - since > _STALLED_AFTER_S:
                _log.warning("The build of %s on another machine stands still: going on with it here.", self.name)
                return
            time.sleep(_LOOK_EVERY_S)

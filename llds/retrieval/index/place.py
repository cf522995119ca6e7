"""Where an index of Chroma lives: what a folder and a server have in common.

`ChromaRetriever` and the build work with either through this; `llds.retrieval.index.folder` and
`llds.retrieval.index.chroma_server` are the two.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from llds.retrieval.index.manifest import IndexManifest
from llds.retrieval.index.size import IndexSize

if TYPE_CHECKING:
    from llds.retrieval.index.chroma import ChromaDatabase


class IndexPlace(ABC):
    """A place that holds a whole index or none, whatever was killed while it was built.

    Attributes:
        name: What messages call it.
        way_out: What a user can do about an index that cannot be used; ends error messages.
    """

    name: str
    way_out: str

    @abstractmethod
    def lock(self) -> AbstractContextManager[None]:
        """Hold the place for this process; others wait. Given up by the system when the process dies."""

    @abstractmethod
    def connect(self) -> AbstractContextManager["ChromaDatabase"]:
        """A database in which the finished index is a collection."""

    @abstractmethod
    def read_manifest(self) -> IndexManifest | None:
        """Return the manifest, None where there is no index.

        Raises:
            RetrievalError: There is something else, or the server does not answer.
        """

    @abstractmethod
    def verify_files(self, manifest: IndexManifest) -> None:
        """Refuse an index that lost files, as far as they can be seen from here."""

    @abstractmethod
    def check_room(self, size: IndexSize, report: Callable[[str], None]) -> None:
        """Say what building and using an index of this size need, before it starts.

        Raises:
            RetrievalError: There is not enough disk or memory.
        """

    @abstractmethod
    def build(self, fill: Callable[["ChromaDatabase"], IndexManifest]) -> None:
        """Let ``fill`` build the index, going on where a killed build stopped; it appears as a whole or not at all."""

    @abstractmethod
    def remove(self) -> None:
        """Delete the index, finished or half-built."""

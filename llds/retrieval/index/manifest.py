"""What an index was built from and what it must hold: the record by which an index is trusted or refused.

Kept as ``manifest.json`` in the folder of an index, and in the metadata of a Chroma collection, so that a folder that
was built here and is served elsewhere still has it.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from llds.errors import RetrievalError
from llds.retrieval.index.size import IndexSize, index_size

_FORMAT = 2


@dataclass(frozen=True)
class IndexManifest:
    """What an index was built from and what it must hold.

    Attributes:
        settings: What decides the index: hash of the corpus file, embedder, dimension, HNSW. Must equal what is
            configured now.
        rows: Number of passages.
        merged: Rows of the corpus that repeated an earlier one and were left out.
        passages_hash: Hash of the passages, whatever file they came in.
        probes: Ids of passages that must find themselves.
        file_bytes: Size of each file that never changes after the build, by its path in the folder.
    """

    settings: dict[str, Any]
    rows: int
    merged: int
    passages_hash: str
    probes: list[str]
    file_bytes: dict[str, int] = field(default_factory=dict)

    def size(self, is_exact: bool) -> IndexSize:
        """Return what the finished index needs; its texts stay on disk and are not counted.

        Args:
            is_exact: Whether it is searched exactly, from vectors in memory.
        """
        links = self.settings["hnsw"]["max_neighbors"]
        return index_size(self.rows, 0, self.settings["dimension"], links, 0, is_exact)

    def to_json(self) -> str:
        """Return the manifest as text."""
        return json.dumps({"format": _FORMAT, **asdict(self)}, indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "IndexManifest":
        """Read a manifest.

        Raises:
            ValueError: It is none, or one of another version.
        """
        try:
            fields = json.loads(text)
            if fields.pop("format") != _FORMAT:
                raise ValueError("written by another version of llds")
            return cls(**fields)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not a manifest: {error}") from error

    def verify_settings(self, settings: dict[str, Any], place: str, way_out: str) -> None:
        """Refuse an index that was built from something else.

        Args:
            settings: What is configured now; a value of None is not compared.
            place: Where the index is, for the message.
            way_out: What to do, for the message.

        Raises:
            RetrievalError: With what differs and what to do.
        """
        for key in sorted(self.settings.keys() | settings.keys()):
            if settings.get(key) is not None and self.settings.get(key) != settings[key]:
                raise RetrievalError(
                    f"Expected an index with {key} {settings[key]!r}, as configured, got one with "
                    f"{self.settings.get(key)!r} in {place}. {way_out}"
                )

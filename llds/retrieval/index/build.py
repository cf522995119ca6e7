"""Fills a Chroma collection from a corpus, going on where a build was stopped or killed.

Used by `ChromaRetriever` at its first start and by ``llds index``. Rows go in one batch after another, in
the corpus's order, so the number of rows that are there tells how far a killed build came; its last batch is sent
again, and a row that was there is replaced by itself. Left out: where the collection is (`llds.retrieval.index.place`).
"""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from llds.errors import RetrievalError
from llds.retrieval.base import Passage
from llds.retrieval.corpus import Corpus, passage_content
from llds.retrieval.embedders.base import Embedder, Vectors
from llds.retrieval.index.chroma import ChromaCollection, ChromaDatabase
from llds.retrieval.index.manifest import IndexManifest
from llds.retrieval.index.size import IndexSize, index_size

_log = logging.getLogger(__name__)

MANIFEST_KEY = "llds_manifest"
"""Where the manifest is in a collection's metadata."""
_SETTINGS_KEY = "llds_settings"
_BATCH_ROWS = 1_000
_BATCH_BYTES = 16 << 20
"""Of texts and of vectors as JSON; a server takes 40 MiB."""
_PAGE_ROWS = 5_000
_MIN_UNSYNCED_ROWS = 10_000
_SYNCS = 10
_PROBES = 16

Progress = Callable[[int], None]
"""Is told the number of passages that are in, after every batch."""


@dataclass(frozen=True)
class IndexRecipe:
    """What an index is built from.

    Attributes:
        collection: Name of the collection.
        corpus: The passages.
        embedder: Makes their vectors.
        hnsw: Chroma's settings of the graph.
        settings: All that decides the index, as it will stand in the manifest.
    """

    collection: str
    corpus: Corpus
    embedder: Embedder
    hnsw: dict[str, Any]
    settings: dict[str, Any]

    @property
    def unsynced_rows(self) -> int:
        """Rows between two syncs. Each sync writes the whole graph, so their number must not grow with the corpus."""
        return max(_MIN_UNSYNCED_ROWS, self.corpus.rows // _SYNCS)

    def size(self, is_exact: bool) -> IndexSize:
        """Return what the index will need.

        Args:
            is_exact: Whether it is searched exactly, from vectors in memory.
        """
        return index_size(
            self.corpus.rows,
            self.corpus.text_bytes,
            self.embedder.dimension,
            self.hnsw["max_neighbors"],
            min(self.unsynced_rows, self.corpus.rows),
            is_exact,
        )


def building_name(collection: str) -> str:
    """Name of a collection while it is built."""
    return f"{collection}.building"


def fill_index(database: ChromaDatabase, recipe: IndexRecipe, host: str, progress: Progress) -> IndexManifest:
    """Fill a collection and give it its name when all is in.

    Args:
        database: Where it is made.
        recipe: What it is made from.
        host: Name of this machine; others that find the build wait for it.
        progress: Is told how far it is.

    Raises:
        RetrievalError: Chroma failed, or holds something else than it was sent.
        DataError: The corpus changed meanwhile.
    """
    collection = _resumed(database, recipe) or database.create(
        building_name(recipe.collection),
        {**recipe.hnsw, "sync_threshold": recipe.unsynced_rows},
        {_SETTINGS_KEY: _settings_text(recipe), "host": host},
    )
    rows = max(0, collection.count() - _BATCH_ROWS)
    progress(rows)
    passages = islice(recipe.corpus, rows, None)
    for batch in _batches(passages, recipe.embedder.dimension, min(_BATCH_ROWS, collection.max_batch_size)):
        contents = [passage_content(passage) for passage in batch]
        collection.upsert(batch, recipe.embedder.embed_passages(contents))
        rows += len(batch)
        progress(rows)
    if collection.count() != recipe.corpus.rows:
        raise RetrievalError(
            f"Expected {recipe.corpus.rows:,} passages in the new index, got {collection.count():,}: Chroma lost or "
            "doubled some. Delete it and build it anew."
        )
    collection.sync()
    return _publish(collection, recipe)


def _resumed(database: ChromaDatabase, recipe: IndexRecipe) -> ChromaCollection | None:
    """What a killed build left, if it can be gone on with; else it is deleted."""
    name = building_name(recipe.collection)
    collection = database.find(name)
    if collection is None:
        return None
    if collection.metadata.get(_SETTINGS_KEY) != _settings_text(recipe):
        _log.warning("Deleting a half-built index of another corpus or other settings.")
    elif not _holds_its_vectors(collection, recipe):
        _log.warning("Deleting a half-built index that was damaged when its build was killed.")
    else:
        _log.info("Going on with a build that was stopped: %d of %d passages.", collection.count(), recipe.corpus.rows)
        return collection
    database.delete(name)
    return None


def _holds_its_vectors(collection: ChromaCollection, recipe: IndexRecipe) -> bool:
    """Whether every row has a vector, and known rows have theirs. A kill can tear the files of the graph."""
    try:
        vectors: dict[str, Vectors] = {}
        for offset in range(0, collection.count(), _PAGE_ROWS):
            ids, page = collection.vectors(offset, _PAGE_ROWS)
            if page.shape != (len(ids), recipe.embedder.dimension):
                return False
            vectors.update(zip(ids[:: _PAGE_ROWS // _PROBES], page[:: _PAGE_ROWS // _PROBES], strict=True))
        passages = collection.passages(list(vectors)) if vectors else {}
    except RetrievalError:
        return False
    known = recipe.embedder.embed_passages([passage_content(passages[one]) for one in vectors])
    return bool(np.allclose(known, np.array(list(vectors.values())).reshape(known.shape), atol=1e-3))


def _settings_text(recipe: IndexRecipe) -> str:
    return json.dumps({**recipe.settings, "passages": recipe.corpus.passages_hash}, sort_keys=True)


def _batches(passages: Iterator[Passage], dimension: int, max_rows: int) -> Iterator[list[Passage]]:
    batch: list[Passage] = []
    size = 0
    for passage in passages:
        row_bytes = 6 * dimension + 2 * (len(passage.text) + len(passage.title))  # vectors travel in base 64
        if batch and (len(batch) == max_rows or size + row_bytes > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(passage)
        size += row_bytes
    if batch:
        yield batch


def _publish(collection: ChromaCollection, recipe: IndexRecipe) -> IndexManifest:
    rows = recipe.corpus.rows
    count = min(_PROBES, rows)
    manifest = IndexManifest(
        settings=recipe.settings,
        rows=rows,
        merged=len(recipe.corpus.merged),
        passages_hash=recipe.corpus.passages_hash,
        probes=[collection.ids(offset=rows * number // count, limit=1)[0] for number in range(count)],
    )
    collection.rename(recipe.collection, {MANIFEST_KEY: manifest.to_json()})
    return manifest

"""The sparse retriever: BM25 over a corpus, from an index on disk. The only file that imports bm25s.

Finds passages by the words that they share with the query, where dense retrievers go by meaning: names and numbers
are its strength. The index (the score of each word in each passage, computed ahead) and the passages are mapped from
disk, so that processes share their memory. Left out: indices that are too large to build at start-up.
"""

import logging
import re
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llds.errors import ConfigurationError, DataError, RetrievalError
from llds.files import file_hash
from llds.paths import resolve_path
from llds.retrieval.base import Passage, Retriever
from llds.retrieval.corpus import Corpus, check_corpus, passage_content
from llds.retrieval.index.exact import Hit, best_first
from llds.retrieval.index.folder import IndexFolder
from llds.retrieval.index.manifest import IndexManifest

if TYPE_CHECKING:
    import bm25s
    import pyarrow as pa

Language = Literal[
    "danish", "dutch", "english", "french", "german", "italian", "norwegian", "portuguese", "russian", "spanish",
    "swedish", "turkish",
]  # fmt: skip
"""Languages with both a Snowball stemmer and a list of stop words."""

_PASSAGES = "passages.arrow"
_COLUMNS = ("document_id", "title", "text")
_BATCH_SIZE = 5_000
_TOKENIZATION = "lower-case words, stop words dropped, Snowball stems; 1"
_WORD = re.compile(r"\w+")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _OpenIndex:
    scores: "bm25s.BM25"
    passages: "pa.Table"  # id, title, text; the row is the passage's number in `scores`
    manifest: IndexManifest


class BM25Retriever(Retriever):
    """Retrieves the passages that share the rarest words with the query, by BM25 (Lucene's variant).

    Only passages that share a word are found, so there may be fewer than asked for. The time of a query grows with
    the number of passages that hold its words.

    Args:
        path: Folder of the index; made when missing. ``llds:...`` is inside the package.
        corpus: Corpus file that the index holds. ``llds:...`` is inside the package.
        language: Language whose stop words are dropped and whose stems are compared; None compares whole words.
        k1: How fast more occurrences of a word stop to count; the default is that of Anserini and Search-R1.
        b: How much long passages are held back, 0-1; the default is that of Anserini and Search-R1.

    Raises:
        ConfigurationError: A number is out of its range.
    """

    def __init__(
        self, path: str, corpus: str, language: Language | None = "english", k1: float = 0.9, b: float = 0.4
    ) -> None:
        if k1 < 0 or not 0 <= b <= 1:
            raise ConfigurationError(f"Expected `retriever.k1` >= 0 and `retriever.b` in [0, 1], got {k1} and {b}.")
        self.place = IndexFolder(resolve_path(path))
        self.corpus = resolve_path(corpus)
        self.language = language
        self.k1 = k1
        self.b = b
        self._index: _OpenIndex | None = None

    def open(self) -> None:
        """Build the index when it is missing, verify it, and get ready to answer. Nothing happens when it is open.

        Raises:
            RetrievalError: The index is damaged or was built from another corpus or with other settings.
            DataError: The corpus cannot be used.
        """
        if self._index is not None:
            return
        with self.place.lock():
            if self.place.read_manifest() is None:
                self._build()
            self._index = self._load()

    def close(self) -> None:
        """Give the index back. A closed retriever can be opened again."""
        self._index = None

    def retrieve(self, queries: list[str], top_k: int) -> list[list[Passage]]:
        """Return the up to ``top_k`` passages of highest BM25 score, above 0; equal ones ordered by id."""
        index = self._opened()
        if top_k < 1:
            raise ConfigurationError(f"Expected `top_k` >= 1, got {top_k}. Ask for at least one passage.")
        return [self._search(index, words, top_k) for words in _words(queries, self.language)]

    def describe(self) -> dict[str, Any]:
        """What decides the results: corpus, words and weights. Needs an open retriever."""
        manifest = self._opened().manifest
        settings = {**manifest.settings, "corpus": manifest.passages_hash}
        return {"retriever": "bm25", "rows": manifest.rows, **settings}

    def _settings(self, corpus_hash: str) -> dict[str, Any]:
        return {
            "corpus": corpus_hash,
            "language": self.language or "none",
            "tokenization": _TOKENIZATION,
            "k1": self.k1,
            "b": self.b,
        }

    def _opened(self) -> _OpenIndex:
        if self._index is None:
            raise RetrievalError(
                f"Expected an open retriever, got a closed one ({self.place.name}). Call open() first."
            )
        return self._index

    def _build(self) -> None:
        _log.info("Building %s from %s.", self.place.name, self.corpus)
        start = time.monotonic()
        corpus = check_corpus(self.corpus)
        self.place.build_files(lambda folder: self._fill(folder, corpus))
        _log.info("Built %s: %d passages in %.1f s.", self.place.name, corpus.rows, time.monotonic() - start)

    def _fill(self, folder: Path, corpus: Corpus) -> IndexManifest:
        # Imported here, as everywhere in this file: a run with another retriever does not pay for it at start-up.
        import bm25s

        vocabulary: dict[str, int] = {}
        numbers = self._write_passages(folder / _PASSAGES, corpus, vocabulary)
        if not vocabulary:
            raise DataError(f"Expected words in the passages of {self.corpus}, got none that are no stop words.")
        scores = bm25s.BM25(k1=self.k1, b=self.b, method="lucene")
        scores.index((numbers, vocabulary), create_empty_token=False, show_progress=False)
        scores.save(folder, show_progress=False)
        return IndexManifest(
            self._settings(corpus.file_hash), corpus.rows, len(corpus.merged), corpus.passages_hash, probes=[]
        )

    def _write_passages(self, path: Path, corpus: Corpus, vocabulary: dict[str, int]) -> list[array]:
        """Write the passages; returns the words of each by their numbers in the vocabulary, which is filled."""
        import pyarrow as pa

        schema = pa.schema([(name, pa.string()) for name in _COLUMNS])
        numbers: list[array] = []
        passages = iter(corpus)
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
            while batch := list(islice(passages, _BATCH_SIZE)):
                columns = zip(*((passage.document_id, passage.title, passage.text) for passage in batch), strict=True)
                writer.write_batch(pa.record_batch([list(column) for column in columns], schema=schema))
                numbers += [
                    array("i", [vocabulary.setdefault(word, len(vocabulary)) for word in words])
                    for words in _words([passage_content(passage) for passage in batch], self.language)
                ]
        return numbers

    def _load(self) -> _OpenIndex:
        import bm25s
        import pyarrow as pa

        manifest = self.place.read_manifest()
        if manifest is None:
            raise RetrievalError(f"Expected {self.place.name}, got nothing: it was removed. Open it again.")
        manifest.verify_settings(self._settings(file_hash(self.corpus)), self.place.name, self.place.way_out)
        self.place.verify_files(manifest)
        scores = bm25s.BM25.load(self.place.path, mmap=True, show_progress=False)
        passages = pa.ipc.open_file(pa.memory_map(str(self.place.path / _PASSAGES))).read_all()
        rows = (manifest.rows, scores.scores["num_docs"], passages.num_rows)
        if len(set(rows)) > 1:
            raise RetrievalError(
                f"Expected {rows[0]:,} passages in {self.place.name}, got the scores of {rows[1]:,} and the texts of "
                f"{rows[2]:,}. {self.place.way_out}"
            )
        return _OpenIndex(scores, passages, manifest)

    def _search(self, index: _OpenIndex, words: list[str], top_k: int) -> list[Passage]:
        numbers = index.scores.get_tokens_ids(words)
        if not numbers:
            return []
        scores = index.scores.get_scores_from_ids(numbers)  # [n]
        top_k = min(top_k, len(scores))
        threshold = np.partition(scores, -top_k)[-top_k]
        rows = np.flatnonzero((scores >= threshold) & (scores > 0))
        row_of = {index.passages["document_id"][row].as_py(): row for row in rows.tolist()}
        hits = best_first([Hit(document_id, float(scores[row])) for document_id, row in row_of.items()])[:top_k]
        return [_passage(index.passages, row_of[hit.document_id], hit) for hit in hits]


def _words(texts: list[str], language: str | None) -> Iterator[list[str]]:
    """The words of each text that count: lower-case; without stop words and as stems where a language is named."""
    import Stemmer
    from bm25s.tokenization import Tokenizer

    # A stemmer of this call's own: threads must not share one.
    stemmer = Stemmer.Stemmer(language) if language else None
    stop_words = frozenset(Tokenizer(stopwords=language).stopwords if language else ())
    for text in texts:
        words = [word for word in _WORD.findall(text.lower()) if word not in stop_words]
        yield stemmer.stemWords(words) if stemmer else words


def _passage(passages: "pa.Table", row: int, hit: Hit) -> Passage:
    return Passage(hit.document_id, passages["title"][row].as_py(), passages["text"][row].as_py(), score=hit.score)

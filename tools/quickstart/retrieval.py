"""Exact search over the quickstart's corpus, in the format in which the search tool shows passages.

Stands in for the vector database where the start policy is made and evaluated: the same embedder and the same ranking,
every passage compared, no index to build.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from llds.agent_tools.search import format_passages
from llds.retrieval import Passage
from llds.retrieval.corpus import passage_content, read_corpus
from llds.retrieval.embedders.wordllama import WordLlamaEmbedder

TOP_K = 2
"""Passages per search: the start policy has only seen two."""


def text_in_file(passage: Passage) -> str:
    """A passage as the corpus file writes it: the title in quotes, a line break, the text."""
    return f'"{passage.title}"\n{passage.text}'


class ExactSearch:
    """The best passages of a corpus by inner product.

    Args:
        corpus: Path of a jsonl file in Search-R1's format.
        top_k: Passages per query.
        text_of: What is embedded of a passage; by default what every retriever of `llds` embeds.
    """

    def __init__(self, corpus: Path, top_k: int = TOP_K, text_of: Callable[[Passage], str] = passage_content) -> None:
        self.passages = list(read_corpus(corpus))
        self.ids = [passage.document_id for passage in self.passages]
        self.top_k = top_k
        self.embedder = WordLlamaEmbedder()
        self.vectors = self.embedder.embed([text_of(passage) for passage in self.passages])

    def search(self, queries: list[str]) -> list[list[int]]:
        """Return the row numbers of the best passages of each query, best first."""
        found: list[list[int]] = []
        for start in range(0, len(queries), 512):
            scores = self.embedder.embed(queries[start : start + 512]) @ self.vectors.T
            found += np.argsort(-scores, axis=1, kind="stable")[:, : self.top_k].tolist()
        return found

    def body(self, rows: list[int]) -> str:
        """What the search tool says about these passages."""
        return format_passages([self.passages[row] for row in rows])

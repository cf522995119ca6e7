"""Exact search over the quickstart's corpus, in the format in which a search tool shows passages.

Stands in for the vector database where the start policy is made and evaluated: the same embedder, every passage
compared, no index to build.
"""

import json
from pathlib import Path

import numpy as np

from llds.retrieval.wordllama_embedder import WordLlamaEmbedder

TOP_K = 2
"""Passages per search: the start policy has only seen two."""


class ExactSearch:
    """The best passages of a corpus by inner product.

    Args:
        corpus: Path of a jsonl file in Search-R1's format.
        top_k: Passages per query.
    """

    def __init__(self, corpus: Path, top_k: int = TOP_K) -> None:
        rows = [json.loads(line) for line in corpus.read_text(encoding="utf-8").splitlines()]
        self.ids: list[str] = [row["id"] for row in rows]
        split = [row["contents"].split("\n", 1) for row in rows]
        self.titles = [title.strip('"') for title, _ in split]
        self.texts = [text for _, text in split]
        self.top_k = top_k
        self.embedder = WordLlamaEmbedder()
        self.vectors = self.embedder.embed([row["contents"] for row in rows])

    def search(self, queries: list[str]) -> list[list[int]]:
        """Return the row numbers of the best passages of each query, best first."""
        found: list[list[int]] = []
        for start in range(0, len(queries), 512):
            scores = self.embedder.embed(queries[start : start + 512]) @ self.vectors.T
            found += np.argsort(-scores, axis=1, kind="stable")[:, : self.top_k].tolist()
        return found

    def body(self, rows: list[int]) -> str:
        """What the search tool says about these passages."""
        return format_passages([(self.titles[row], self.texts[row]) for row in rows])


def format_passages(passages: list[tuple[str, str]]) -> str:
    """Search-R1's format: one line per passage (title, text)."""
    return "\n".join(f'Doc {k}(Title: "{title}") {text}' for k, (title, text) in enumerate(passages, start=1))

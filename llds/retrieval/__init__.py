"""Retrieval: corpora, embedders and the retrievers that the search tool asks."""

from llds.retrieval.base import Passage, Retriever
from llds.retrieval.embedders import Embedder

__all__ = ["Embedder", "Passage", "Retriever"]

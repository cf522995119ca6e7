"""Retrieval: corpora, embedders and the retrievers that the search tool asks; the tool is in `llds.agent_tools`."""

from llds.retrieval.base import Passage, Retriever
from llds.retrieval.bm25 import BM25Retriever
from llds.retrieval.chroma_retriever import ChromaRetriever
from llds.retrieval.embedders import Embedder, FunctionEmbedder, MiniLMEmbedder, TransformerEmbedder, WordLlamaEmbedder
from llds.retrieval.fusion import FusionRetriever, HybridRetriever
from llds.retrieval.http import HTTPRetriever
from llds.retrieval.index.chroma_server import ChromaServer

__all__ = [
    "BM25Retriever",
    "ChromaRetriever",
    "ChromaServer",
    "Embedder",
    "FunctionEmbedder",
    "FusionRetriever",
    "HTTPRetriever",
    "HybridRetriever",
    "MiniLMEmbedder",
    "Passage",
    "Retriever",
    "TransformerEmbedder",
    "WordLlamaEmbedder",
]

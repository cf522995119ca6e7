"""Embedders: texts to vectors; where vectors are stored and searched is in `llds.retrieval.index`."""

from llds.retrieval.embedders.base import Embedder
from llds.retrieval.embedders.function import FunctionEmbedder
from llds.retrieval.embedders.transformer import MiniLMEmbedder, TransformerEmbedder
from llds.retrieval.embedders.wordllama import WordLlamaEmbedder

__all__ = ["Embedder", "FunctionEmbedder", "MiniLMEmbedder", "TransformerEmbedder", "WordLlamaEmbedder"]

r"""The retrieval protocol of Search-R1, as JSON-ready values: ``POST /retrieve``.

::

    {"queries": ["capital of France"], "topk": 3, "return_scores": true}
    {"result": [[{"document": {"id": "0", "contents": "\"Paris\"\nParis is ..."}, "score": 0.8}, ...]]}

Without ``return_scores`` the documents stand there bare. Both sides use this file: `HTTPRetriever` reads replies,
`retrieval_app` reads requests. Read generously, because servers differ (some give no ids, some no scores, some
ignore ``topk``), and written exactly as Search-R1's own server writes. Left out: HTTP.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llds.errors import DataError, RetrievalError
from llds.files.rows import is_unicode
from llds.retrieval.base import Passage
from llds.retrieval.corpus import split_contents


@dataclass(frozen=True)
class RequestLimits:
    """What a request to a retrieval server may ask for."""

    queries: int = 1024
    """Most queries of one request."""
    query_chars: int = 10_000
    """Longest query, in characters."""
    top_k: int = 100
    """Most passages per query."""
    body_bytes: int = 8 << 20
    """Largest body, in bytes."""


@dataclass(frozen=True)
class RetrieveRequest:
    """A request as it was understood.

    Attributes:
        queries: The queries.
        top_k: Number of passages per query.
        return_scores: Whether the reply has scores.
    """

    queries: list[str]
    top_k: int
    return_scores: bool


def parse_request(body: Any, default_top_k: int, limits: RequestLimits) -> RetrieveRequest:
    """Read the body of a request.

    Args:
        body: What JSON gave.
        default_top_k: Number of passages where the request names none.
        limits: What it may ask for.

    Raises:
        DataError: It is not as it must be.
    """
    if not isinstance(body, dict):
        raise DataError(f"Expected a JSON object with `queries`, got {_shown(body)}.")
    queries, top_k, return_scores = body.get("queries"), body.get("topk") or default_top_k, body.get("return_scores")
    if not isinstance(queries, list) or not all(isinstance(query, str) for query in queries):
        raise DataError(f"Expected `queries` to be a list of strings, got {_shown(queries)}.")
    if len(queries) > limits.queries:
        raise DataError(f"Expected at most {limits.queries} `queries`, got {len(queries)}. Send several requests.")
    longest = max(map(len, queries), default=0)
    if longest > limits.query_chars:
        raise DataError(f"Expected queries of at most {limits.query_chars} characters, got one of {longest}.")
    if not all(map(is_unicode, queries)):
        raise DataError("Expected queries of Unicode text, got half a character (a lone surrogate).")
    if not isinstance(top_k, int) or isinstance(top_k, bool) or not 1 <= top_k <= limits.top_k:
        raise DataError(f"Expected `topk` to be a number from 1 to {limits.top_k}, got {_shown(top_k)}.")
    if return_scores not in (None, True, False):
        raise DataError(f"Expected `return_scores` to be true or false, got {_shown(return_scores)}.")
    return RetrieveRequest(queries, top_k, bool(return_scores))


def encode_reply(results: list[list[Passage]], return_scores: bool) -> dict[str, Any]:
    """Return the reply to a request.

    Args:
        results: One list of passages per query.
        return_scores: Whether each document comes with its score.
    """
    encode = _scored_document if return_scores else _document
    return {"result": [[encode(passage) for passage in passages] for passages in results]}


def parse_reply(
    reply: Any, queries: int, top_k: int, leave_out: Callable[[], None] = lambda: None
) -> list[list[Passage]]:
    """Read a server's reply.

    A document without an id gets one from its contents; one without a text (a page that could not be fetched) is left
    out. A server that returns more than it was asked for is cut.

    Args:
        reply: What JSON gave.
        queries: Number of queries that were asked.
        top_k: Number of passages per query that was asked for.
        leave_out: Is called for every document that is left out.

    Raises:
        RetrievalError: It is not as it must be.
    """
    result = reply.get("result") if isinstance(reply, dict) else None
    if not isinstance(result, list):
        raise RetrievalError(f"Expected a reply {{'result': [...]}}, got {_shown(reply)}.")
    if len(result) != queries:
        raise RetrievalError(f"Expected a reply with {queries} lists of documents, one a query, got {len(result)}.")
    for documents in result:
        if not isinstance(documents, list):
            raise RetrievalError(f"Expected a list of documents for each query, got {_shown(documents)}.")
    return [_passages(documents[:top_k], leave_out) for documents in result]


def _document(passage: Passage) -> dict[str, Any]:
    return {"id": passage.document_id, "contents": f'"{passage.title}"\n{passage.text}'}


def _scored_document(passage: Passage) -> dict[str, Any]:
    return {"document": _document(passage), "score": passage.score}


def _passages(documents: list[Any], leave_out: Callable[[], None]) -> list[Passage]:
    passages = []
    for passage in map(_passage, documents):
        if passage.text:
            passages.append(passage)
        else:
            leave_out()
    return passages


def _passage(item: Any) -> Passage:
    document = item.get("document", item) if isinstance(item, dict) else item
    if isinstance(document, str):  # as Search-R1's reranking server has it
        document = {"contents": document}
    contents = document.get("contents", False) if isinstance(document, dict) else False
    contents = "" if contents is None else contents
    if not isinstance(contents, str) or not is_unicode(contents):
        raise RetrievalError(f"Expected a document with Unicode text as `contents`, got {_shown(document)}.")
    title, text = split_contents(contents)
    return Passage(_document_id(document, contents), title, text, _score(item))


def _document_id(document: dict[str, Any], contents: str) -> str:
    value = document.get("id")
    if value is None:
        return hashlib.sha256(contents.encode()).hexdigest()[:16]
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        raise RetrievalError(f"Expected the `id` of a document to be a text or a number, got {_shown(value)}.")
    return str(value)


def _score(item: Any) -> float:
    value = item.get("score") if isinstance(item, dict) and "document" in item else None
    if value is None:
        return 0.0
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise RetrievalError(f"Expected the `score` of a document to be a finite number, got {_shown(value)}.")
    return float(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."

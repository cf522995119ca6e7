"""A retriever behind an HTTP server that speaks the protocol of Search-R1.

The server may be ours (``llds serve-retriever``) or any existing installation. A server that is down, slow, or answers
garbage costs a few tries, then is a `RetrievalError`; nothing of it is ever passed on as a passage. Each try takes a
connection that works, so a server that comes back is found again without further ado. Left out: the protocol itself
(`llds.retrieval.search_r1`) and the connections (`llds.retrieval.connections`).
"""

import hashlib
import json
import logging
import random
import threading
import time
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from llds.errors import ConfigurationError, RetrievalError, RetrieverUnavailableError
from llds.retrieval.adaptive_timeout import AdaptiveTimeout
from llds.retrieval.base import Passage, Retriever
from llds.retrieval.connections import Connections
from llds.retrieval.search_r1 import parse_reply

_MAX_CONNECTIONS = 64
_MAX_REPLY_BYTES = 256 << 20
_PROBES = ["capital of France", "author of a novel", "battle in the war", "a film and its director"]
_PROBE_TOP_K = 3
_KEY = "`retrieval.retriever.init_args.url`"
_ADVICE = {
    401: "Set `token_file` to a file with the server's token.",
    403: "Set `token_file` to a file with the server's token.",
    404: f"Correct the path of {_KEY}; it mostly ends in /retrieve.",
    405: f"Correct the path of {_KEY}; it mostly ends in /retrieve.",
    413: "Lower `max_queries`.",
}
_SENT_ELSEWHERE = f"It sends requests elsewhere, where they are not taken: set {_KEY} to the place itself."
_log = logging.getLogger(__name__)
_jitter = random.Random()  # noqa: S311 (its own, so that a failure leaves the run's random numbers alone)


class _RefusedError(RetrievalError):
    """The server understood and said no: another try would get the same answer."""


class _TooSlowError(RetrievalError):
    """The server did not answer in time."""


@dataclass(frozen=True)
class _Server:
    connections: Connections
    timeout: AdaptiveTimeout
    identity: Any  # what decides the results, as far as the server tells


class HTTPRetriever(Retriever):
    """Asks a retrieval server: Search-R1's, ``llds serve-retriever``, or any that speaks ``POST /retrieve``.

    Proxies of the environment are not used.

    Args:
        url: Address of the server, such as ``http://127.0.0.1:8000``; ``/retrieve`` is added where it has no path.
        timeout_s: Longest wait for the server, in seconds: for a connection, for the first byte of a reply, and for
            the whole of it. Where answers usually are quicker, a try that others will follow waits four times as long
            as they take, at least a second, and three times longer after each that was not answered in time.
        max_retries: Tries of a request after the first that failed.
        backoff_s: Mean wait before the first retry, in seconds; doubles with each retry, times a random factor in
            [0.5, 1.5].
        max_queries: Most queries of one request; more are sent in several, one after another.
        token_file: File that holds the server's token; None sends none.

    Attributes:
        left_out: Number of documents without a text that the server sent so far; they are left out.

    Raises:
        ConfigurationError: A value is out of its range, or no address.
    """

    def __init__(
        self,
        url: str,
        timeout_s: float = 10.0,
        max_retries: int = 2,
        backoff_s: float = 0.2,
        max_queries: int = 256,
        token_file: str | None = None,
    ) -> None:
        if timeout_s <= 0 or max_retries < 0 or backoff_s < 0 or max_queries < 1:
            raise ConfigurationError(
                "Expected an HTTP retriever with timeout_s > 0, max_retries >= 0, backoff_s >= 0 and max_queries >= 1, "
                f"got {timeout_s}, {max_retries}, {backoff_s} and {max_queries}."
            )
        self.url = _checked_url(url)
        self.timeout_s = timeout_s
        self.max_retries = max_retries
        self.backoff_s = backoff_s
        self.max_queries = max_queries
        self.token_file = token_file
        self._server: _Server | None = None
        self.left_out = 0
        self._counting = threading.Lock()

    def open(self) -> None:
        """Connect and ask a few queries, to see that the server answers as it must. Nothing happens when it is open.

        Raises:
            RetrievalError: It does not; the message names the address and says what to do.
            ConfigurationError: The token cannot be read.
        """
        if self._server is not None:
            return
        token = read_token(self.token_file) if self.token_file else None
        client, timeout = Connections(_MAX_CONNECTIONS, token), AdaptiveTimeout(self.timeout_s)
        try:
            answers = self._ask(client, timeout, _PROBES, _PROBE_TOP_K)
            identity = self._described_by(client) or {"answers": _hash(answers)}
            self._server = _Server(client, timeout, identity)
        except RetrievalError as error:
            client.close()
            raise RetrievalError(
                f"Expected a retrieval server at {self.url} ({_KEY}), got: {error} Start one (`llds serve-retriever -c "
                "CONFIG`), or correct the address."
            ) from error

    def close(self) -> None:
        """Close the connections. A closed retriever can be opened again."""
        if self._server is not None:
            if self.left_out:
                _log.info("%s sent %s documents without a text in all.", self.url, f"{self.left_out:,}")
            self._server.connections.close()
            self._server = None

    def retrieve(self, queries: list[str], top_k: int) -> list[list[Passage]]:
        """Return the server's passages for each query, in the server's order."""
        server = self._opened()
        results: list[list[Passage]] = []
        for start in range(0, len(queries), self.max_queries):
            results += self._ask(server.connections, server.timeout, queries[start : start + self.max_queries], top_k)
        return results

    def describe(self) -> dict[str, Any]:
        """What the server tells of itself or, where it tells nothing, a hash of its answers to a few queries."""
        return {"retriever": "http", "server": self._opened().identity}

    def _opened(self) -> _Server:
        if self._server is None:
            raise RetrievalError(f"Expected an open retriever, got a closed one ({self.url}). Call open() first.")
        return self._server

    def _ask(
        self, client: Connections, timeout: AdaptiveTimeout, queries: list[str], top_k: int
    ) -> list[list[Passage]]:
        """Ask until there is a good answer or no try left."""
        payload = {"queries": queries, "topk": top_k, "return_scores": True}
        timed_out = 0
        for attempt in range(self.max_retries + 1):
            wait_s = timeout.seconds(timed_out) if self.max_retries else self.timeout_s
            started = time.monotonic()
            try:
                reply = self._exchange(client, "POST", self.url, wait_s, payload)
                answer = parse_reply(reply, len(queries), top_k, self._leave_out)
            except _RefusedError:
                raise
            except _TooSlowError as error:
                timed_out += 1
                timeout.record(wait_s)
                last: RetrievalError = error
            except RetrievalError as error:
                last = error
            else:
                timeout.record(time.monotonic() - started)
                return answer
            if attempt < self.max_retries:
                time.sleep(self.backoff_s * 2**attempt * _jitter.uniform(0.5, 1.5))
        raise RetrieverUnavailableError(f"{self.url} failed {self.max_retries + 1} times, last: {last}") from last

    def _described_by(self, client: Connections) -> Any:
        """What ``/health`` of our own server tells; None where there is no such thing."""
        try:
            health = self._exchange(client, "GET", f"{self.url.rpartition('/')[0]}/health", self.timeout_s)
        except RetrievalError:
            return None
        return health.get("retriever") if isinstance(health, dict) else None

    def _exchange(self, client: Connections, method: str, url: str, wait_s: float, payload: Any = None) -> Any:
        """One request; returns what JSON gives."""
        content = b"" if payload is None else json.dumps(payload).encode()
        try:
            status, body = client.exchange(method, url, wait_s, _MAX_REPLY_BYTES, content)
        except TimeoutError as error:
            raise _TooSlowError(
                f"No whole answer within {wait_s:.3g} s (`timeout_s` is {self.timeout_s:g})."
            ) from error
        if status != HTTPStatus.OK:
            raise _status_error(status, body)
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise RetrievalError(f"Expected JSON, got {body[:80]!r}.") from error

    def _leave_out(self) -> None:
        """Count a document without a text; the first is told."""
        with self._counting:
            self.left_out += 1
            is_first = self.left_out == 1
        if is_first:
            _log.warning("%s sent a document without a text; such documents are left out.", self.url)


def read_token(path: str) -> str:
    """Return the token in a file: its only line. In a file, because configurations are saved with every run.

    Raises:
        ConfigurationError: The file cannot be read, or does not hold one word.
    """
    try:
        words = Path(path).read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"Expected `token_file` to be a file with a token, got {path} ({error}).") from error
    if len(words) != 1:
        raise ConfigurationError(f"Expected one word, the token, in `token_file`, got {len(words)} in {path}.")
    return words[0]


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_address = url.isascii() and parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of a port that is no number
        is_address = False
    if not is_address:
        raise ConfigurationError(f"Expected {_KEY} to be like http://127.0.0.1:8000, got {url!r}. Correct it.")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigurationError(  # which does not repeat it: it may hold a secret
            f"Expected {_KEY} without a password and without anything behind the path, as it is saved with the run and "
            "shown in messages. Use `token_file` for a secret."
        )
    return url if parts.path.strip("/") else f"{parts.scheme}://{parts.netloc}/retrieve"


def _status_error(status: int, body: bytes) -> RetrievalError:
    said = " ".join(body[:200].decode("utf-8", "replace").split())
    advice = _SENT_ELSEWHERE if 300 <= status < 400 else _ADVICE.get(status, "")
    text = f"HTTP status {status}: {said}. {advice}".strip()
    may_pass = status >= 500 or status in (408, 425, 429)
    return RetrievalError(text) if may_pass else _RefusedError(text)


def _hash(answers: list[list[Passage]]) -> str:
    texts = [[(passage.title, passage.text) for passage in passages] for passages in answers]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]

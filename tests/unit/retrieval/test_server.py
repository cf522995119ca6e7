"""The server, asked as Search-R1's code asks and in wrong ways, over a real socket."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest

from llds.errors import ConfigurationError, RetrievalError
from llds.retrieval import ChromaRetriever, HTTPRetriever, Passage, Retriever, server
from llds.retrieval.batching import BatchingRetriever
from llds.retrieval.search_r1 import RequestLimits
from llds.retrieval.server import AppServer, retrieval_app
from tests.servers import answered_by, serving

QUERIES = ["capital of France", "currency of Japan", "largest lake in Africa"]


@pytest.fixture
def chroma(open_retriever: ChromaRetriever) -> ChromaRetriever:
    return open_retriever


@pytest.fixture
def url(chroma: ChromaRetriever) -> Iterator[str]:
    with answered_by(retrieval_app(chroma, top_k=2, limits=RequestLimits(queries=4, body_bytes=2000))) as url:
        yield url


def test_the_request_of_search_r1_gets_what_its_code_reads(url: str, chroma: ChromaRetriever) -> None:
    # requests.post(search_url, json=payload).json(), then _passages2string of search_r1/llm_agent/generation.py
    payload = {"queries": QUERIES, "topk": 3, "return_scores": True}
    reply = httpx.post(f"{url}/retrieve", json=payload).json()["result"]
    assert len(reply) == len(QUERIES)
    for found, passages in zip(reply, chroma.retrieve(QUERIES, 3), strict=True):
        texts = [item["document"]["contents"] for item in found]
        assert [text.split("\n")[0] for text in texts] == [f'"{passage.title}"' for passage in passages]
        assert ["\n".join(text.split("\n")[1:]) for text in texts] == [passage.text for passage in passages]
        assert [item["score"] for item in found] == [passage.score for passage in passages]


def test_without_scores_the_documents_are_bare_and_as_many_as_the_server_says(url: str) -> None:
    [documents] = httpx.post(f"{url}/retrieve", json={"queries": QUERIES[:1]}).json()["result"]
    assert [document.keys() for document in documents] == [{"id", "contents"}] * 2


def test_our_client_gets_through_our_server_what_the_retriever_finds(url: str, chroma: ChromaRetriever) -> None:
    with HTTPRetriever(url, max_queries=2) as retriever:
        assert retriever.retrieve(QUERIES, 3) == chroma.retrieve(QUERIES, 3)
        assert retriever.retrieve([], 3) == []
        assert retriever.describe() == {"retriever": "http", "server": chroma.describe()}


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, "in JSON"),
        (b"\xff", 400, "in JSON"),
        (b"[" * 1500, 400, "in JSON"),
        (b"[]", 400, "JSON object"),
        (b'{"queries": ["q"], "topk": 1000}', 400, "from 1 to 100, got 1000"),
        (b'{"queries": ["q", "q", "q", "q", "q"]}', 400, "at most 4"),
        (b" " * 2001, 413, "at most 2,000 bytes"),
    ],
)
def test_a_bad_request_gets_one_sentence(url: str, body: bytes, status: int, message: str) -> None:
    reply = httpx.post(f"{url}/retrieve", content=body)
    assert (reply.status_code, reply.json().keys()) == (status, {"error"})
    assert message in reply.json()["error"]
    assert httpx.get(f"{url}/health").json()["status"] == "ok"


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/retrieve", 405), ("POST", "/search", 404)])
def test_another_path_or_method_is_told_the_right_ones(url: str, method: str, path: str, status: int) -> None:
    reply = httpx.request(method, f"{url}{path}")
    assert reply.status_code == status
    assert "POST /retrieve" in reply.json()["error"]


def test_a_token_is_asked_for_and_health_tells_strangers_nothing(chroma: ChromaRetriever, tmp_path: Any) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    with answered_by(retrieval_app(chroma, token="s3cret")) as url:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "s3cret"}):
            assert httpx.post(f"{url}/retrieve", json={"queries": ["q"]}, headers=headers).status_code == 401
            assert httpx.get(f"{url}/health", headers=headers).json() == {"status": "ok"}
        with pytest.raises(RetrievalError, match=r"401.*`token_file`"):
            HTTPRetriever(url).open()
        with HTTPRetriever(url, token_file=str(tmp_path / "token")) as retriever:
            assert retriever.retrieve(QUERIES, 3) == chroma.retrieve(QUERIES, 3)
            assert retriever.describe()["server"] == chroma.describe()


class Failing(Retriever):
    """Raises what it is given."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def retrieve(self, queries: list[str], top_k: int) -> list[list[Passage]]:
        """Raise."""
        raise self.error

    def describe(self) -> dict[str, Any]:
        """What it is."""
        return {"retriever": "failing"}


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [(RetrievalError("no disk"), 503, "no disk"), (ZeroDivisionError("by zero"), 500, "ZeroDivisionError")],
)
def test_a_retriever_that_fails_is_an_error_of_the_server(error: Exception, status: int, message: str) -> None:
    with answered_by(retrieval_app(Failing(error))) as url:
        for _ in range(2):
            reply = httpx.post(f"{url}/retrieve", json={"queries": ["q"]})
            assert reply.status_code == status
            assert message in reply.json()["error"]


def test_requests_are_answered_side_by_side() -> None:
    class Meeting(Failing):
        def retrieve(self, queries: list[str], top_k: int) -> list[list[Passage]]:
            barrier.wait(timeout=10)  # both must be here at the same time
            return [[] for _ in queries]

    barrier = threading.Barrier(2)
    with answered_by(retrieval_app(Meeting(ValueError()))) as url:
        replies: list[Any] = []
        body = json.dumps({"queries": ["q"]})
        threads = [
            threading.Thread(target=lambda: replies.append(httpx.post(f"{url}/retrieve", content=body).json()))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert replies == [{"result": [[]]}] * 2


class Counting(Retriever):
    """Answers each query with itself once the gate is open, and keeps what it was asked together."""

    def __init__(self) -> None:
        self.gate, self.calls = threading.Event(), []

    def retrieve(self, queries: list[str], top_k: int) -> list[list[Passage]]:
        """Note the call, and wait for the gate."""
        self.calls.append((list(queries), top_k))
        self.gate.wait(10)
        if "bad" in queries:
            raise RetrievalError("no such thing")
        return [[Passage(f"{query}/{top_k}", "", "x")] for query in queries]

    def describe(self) -> dict[str, Any]:
        """Nothing decides the results."""
        return {}


def test_requests_that_wait_are_asked_together_in_order_and_one_that_fails_takes_nobody_along() -> None:
    async def ask() -> list[Any]:
        retriever = Counting()
        batches = BatchingRetriever(retriever)
        asked = [("a", 1), ("b", 1), ("c", 1), ("d", 1), ("bad", 1), ("e", 2), ("f", 1)]
        tasks = [asyncio.create_task(batches.retrieve([query], top_k)) for query, top_k in asked]
        await asyncio.sleep(0)
        tasks[3].cancel()  # its client went away
        retriever.gate.set()
        return [retriever.calls, *await asyncio.gather(*tasks, return_exceptions=True)]

    calls, *answers = asyncio.run(ask())
    ids = [one if isinstance(one, BaseException) else one[0][0].document_id for one in answers]
    assert [ids[number] for number in (0, 1, 2, 5, 6)] == ["a/1", "b/1", "c/1", "e/2", "f/1"]
    assert isinstance(ids[3], asyncio.CancelledError)
    assert isinstance(ids[4], RetrievalError)
    assert (["a", "b", "c", "d", "bad"], 1) in calls
    assert {count for queries, count in calls if "e" in queries} == {2}


@pytest.mark.parametrize(
    "half", [b"", b"POST /retrieve HT", b"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"]
)
def test_half_a_request_does_not_keep_its_connection(half: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_REQUEST_S", 0.2)
    with serving(retrieval_app(Failing(ValueError()))) as url, httpx.Client() as client:
        assert client.get(f"{url}/health").status_code == 200
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=30) as connection:
            connection.sendall(half)
            with suppress(ConnectionResetError):  # the end of it, this way or that
                assert connection.recv(100) == b""
        assert client.get(f"{url}/health").status_code == 200  # whole requests may take their time


def test_an_address_that_is_taken_is_said_before_anything_else() -> None:
    first = AppServer("127.0.0.1", 0)
    port = int(first.url.rpartition(":")[2])
    with pytest.raises(ConfigurationError, match=f"port {port}.*Set another `port`"):
        AppServer("127.0.0.1", port)
    first.close()
    with pytest.raises(ConfigurationError, match="port 99999"):
        AppServer("127.0.0.1", 99999)

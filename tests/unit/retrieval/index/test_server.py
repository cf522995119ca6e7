"""The Chroma retriever on a real server: the same answers as in a folder, and everything that can be wrong with one."""

import asyncio
import http.server
import itertools
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import chromadb
import pytest
from chromadb.config import Settings

from llds.agent_tools import SearchTool
from llds.errors import ConfigurationError, RetrievalError, ToolFailure
from llds.retrieval import ChromaRetriever, ChromaServer
from llds.retrieval.index import server as index_server
from llds.rollout import ToolCallPolicy
from llds.rollout.tool_calls import call_tool
from tests.chroma_servers import RunningChroma

HNSW = {"exact_up_to": 0}
PLACES = [(f"Place {n}", f"Place {n} lies {n * 37 % 100} km north of place {n * 61 % 977}.") for n in range(977)]
QUERIES = [f"What lies {number} km north of place {number * 7}?" for number in range(40)]
_numbers = itertools.count()


@pytest.fixture(scope="module")
def chroma(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningChroma]:
    server = RunningChroma(tmp_path_factory.mktemp("chroma"))
    yield server
    server.kill()


@pytest.fixture
def on_server(make_retriever: Callable[..., ChromaRetriever], chroma: RunningChroma) -> Callable[..., ChromaRetriever]:
    """Makes retrievers on one collection of the server."""
    name = f"passages{next(_numbers)}"

    def make(timeout_s: float = 10.0, **settings: object) -> ChromaRetriever:
        server = ChromaServer(chroma.url, timeout_s=timeout_s)
        return make_retriever(**{"path": None, "server": server, "collection": name, **settings})

    return make


def answers(retriever, queries=QUERIES, top_k=3):
    return [[(passage.document_id, passage.score) for passage in row] for row in retriever.retrieve(queries, top_k)]


@contextmanager
def client_of(chroma: RunningChroma) -> Iterator[chromadb.api.ClientAPI]:
    settings = Settings(anonymized_telemetry=False)
    yield chromadb.HttpClient("127.0.0.1", chroma.port, settings=settings)


@contextmanager
def other_server(status: int = 404, body: bytes = b"<html>", headers: list[str] | None = None) -> Iterator[str]:
    """An HTTP server that is no Chroma; notes the headers of what it is asked."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if headers is not None:
                headers.append(str(self.headers))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


# Answers


@pytest.mark.slow
def test_a_server_answers_like_a_folder_to_the_bit_and_describes_itself_alike(
    make_retriever, on_server, write_corpus, tmp_path
):
    write_corpus(PLACES)
    with make_retriever() as folder, on_server() as server:
        assert answers(server) == answers(folder)
        assert server.retrieve(QUERIES[:2], 3) == folder.retrieve(QUERIES[:2], 3)  # titles and texts too
        assert server.describe() == folder.describe()
        assert server.fingerprint == folder.fingerprint
        assert server.describe()["search"] == "exact"
    with make_retriever(**HNSW) as folder, on_server(**HNSW) as server:
        pairs = zip(answers(server), answers(folder), strict=True)
        same = [len({i for i, _ in a} & {i for i, _ in b}) / 3 for a, b in pairs]
        assert sum(same) / len(same) > 0.9  # two graphs
        assert server.fingerprint == folder.fingerprint


@pytest.mark.slow
def test_a_folder_that_was_built_here_can_be_served(make_retriever, tmp_path):
    with make_retriever() as folder:
        expected = answers(folder, ["capital of France"]), folder.fingerprint
    server = RunningChroma(tmp_path / "index")
    try:
        with make_retriever(path=None, corpus=None, server=ChromaServer(server.url)) as retriever:
            assert (answers(retriever, ["capital of France"]), retriever.fingerprint) == expected
    finally:
        server.kill()


@pytest.mark.slow
def test_an_index_is_built_once_and_then_opened_without_its_corpus(on_server):
    with on_server() as retriever:
        expected = answers(retriever)
    with on_server(corpus=None) as retriever:
        assert answers(retriever) == expected


# A server that fails


@pytest.mark.slow
def test_a_server_that_dies_and_comes_back_is_picked_up(on_server, chroma):
    with on_server() as retriever:
        expected = answers(retriever)
        chroma.kill()
        try:
            with pytest.raises(
                RetrievalError, match=r"Expected the Chroma server at http.* to answer, got ConnectError.*Start it"
            ):
                answers(retriever)
        finally:
            chroma.start()
        assert answers(retriever) == expected


@pytest.mark.slow
def test_a_search_of_the_agent_waits_for_a_server_that_comes_back_and_fails_typed_without_one(on_server, chroma):
    tool = SearchTool(top_k=2, cache_size=0)  # an answer that is remembered needs no server
    with on_server() as retriever:
        tool.attach(retriever)
        expected = asyncio.run(call_tool(tool, "capital of France", ToolCallPolicy()))
        tool.begin_iteration()
        chroma.kill()
        try:
            with pytest.raises(ToolFailure, match=r"failed 2 times, last: ToolFailure: The retriever failed"):
                asyncio.run(call_tool(tool, "capital of France", ToolCallPolicy(max_retries=1, backoff_s=0.01)))
        finally:
            comes_back = threading.Thread(target=chroma.start)
            comes_back.start()
        tool.attach(retriever, patience_s=30)
        found = asyncio.run(call_tool(tool, "capital of France", ToolCallPolicy(max_retries=0)))
        comes_back.join()
    assert found == expected


@pytest.mark.slow
def test_a_server_that_hangs_costs_a_search_its_time_limit_and_is_picked_up(on_server, chroma):
    with on_server(timeout_s=0.5) as retriever:
        expected = answers(retriever)
        chroma.pause()
        try:
            start = time.monotonic()
            with pytest.raises(RetrievalError, match="ReadTimeout"):
                answers(retriever)
            assert time.monotonic() - start < 5
            with pytest.raises(RetrievalError, match=r"Expected a Chroma server at .*, got TimeoutError: timed out"):
                on_server(timeout_s=0.5).open()
        finally:
            chroma.resume()
        assert answers(retriever) == expected


def test_a_server_that_is_not_there_is_named_with_its_key(make_retriever, chroma):
    free = RunningChroma.__new__(RunningChroma)
    with other_server() as url:
        free.url = url  # its port is free when the server is gone
    with pytest.raises(RetrievalError, match=r"got ConnectionRefusedError.* Start it .* or correct `retriever\.server"):
        make_retriever(path=None, server=ChromaServer(free.url)).open()
    with pytest.raises(RetrievalError, match=r"Expected a Chroma server at http://nowhere\.invalid:8000, got gaierror"):
        make_retriever(path=None, server=ChromaServer("http://nowhere.invalid:8000")).open()


@pytest.mark.slow
def test_a_server_that_is_none_of_chroma_is_refused(make_retriever):
    with (
        other_server() as url,
        pytest.raises(RetrievalError, match=r"got something else \(status 404, .* Correct `retri"),
    ):
        make_retriever(path=None, server=ChromaServer(url)).open()
    with other_server(200, b"{}") as url, pytest.raises(RetrievalError, match="got something else"):
        make_retriever(path=None, server=ChromaServer(url)).open()


def test_an_encrypted_address_of_a_plain_server_is_refused(make_retriever, chroma):
    url = chroma.url.replace("http:", "https:")
    with pytest.raises(RetrievalError, match=r"Expected a Chroma server at https.*, got SSL"):
        make_retriever(path=None, server=ChromaServer(url)).open()


@pytest.mark.slow
def test_the_token_is_sent_and_a_refusal_says_what_to_set(make_retriever, tmp_path):
    (tmp_path / "token").write_text("s3cret\n")
    token_file = str(tmp_path / "token")
    for header, expected in (("Authorization", "Authorization: Bearer s3cret"), ("X-Chroma-Token", "Token: s3cret")):
        seen: list[str] = []
        with (
            other_server(401, headers=seen) as url,
            pytest.raises(RetrievalError, match=r"status 401.*token_file") as got,
        ):
            make_retriever(path=None, server=ChromaServer(url, token_file, header)).open()  # type: ignore[arg-type]
        assert expected in seen[0]
        assert "s3cret" not in str(got.value)


def test_another_tenant_is_refused(make_retriever, chroma):
    with pytest.raises(RetrievalError, match=r"Tenant \[nobody\] not found"):
        make_retriever(path=None, server=ChromaServer(chroma.url, tenant="nobody")).open()


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://a", "http://", "http://a:x", "http://a:8000/api", ""])
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(ConfigurationError, match=r"Expected `retriever\.server\.url` like http://127\.0\.0\.1:8000"):
        ChromaServer(url)


def test_a_password_in_the_address_and_a_time_limit_of_zero_are_refused():
    for url in ("http://user:hunter2@host:8000", "http://host:8000?key=hunter2"):
        with pytest.raises(ConfigurationError, match="without a password") as refusal:
            ChromaServer(url)
        assert "hunter2" not in str(refusal.value)
    with pytest.raises(ConfigurationError, match=r"server\.timeout_s` > 0, got 0"):
        ChromaServer("http://a", timeout_s=0)


def test_folder_and_server_together_and_neither_of_them_are_refused():
    with pytest.raises(ConfigurationError, match=r"one of `retriever\.path` \(a folder\) and .*, got neither"):
        ChromaRetriever(corpus="c.jsonl")
    with pytest.raises(ConfigurationError, match="got both"):
        ChromaRetriever("index", "c.jsonl", server=ChromaServer("http://a"))


# Collections that must not be trusted


@pytest.mark.slow
def test_a_changed_corpus_and_another_graph_are_refused(on_server, write_corpus):
    with on_server():
        pass
    with pytest.raises(RetrievalError, match=r"Expected an index with hnsw .* in the collection passages.*--overwrite"):
        on_server(max_neighbors=8).open()
    write_corpus([("Paris", "A city.")])
    with pytest.raises(RetrievalError, match="Expected an index with corpus"):
        on_server().open()
    retriever = on_server()
    retriever.remove()
    with retriever:
        assert retriever.describe()["rows"] == 1


def test_a_collection_of_somebody_else_is_neither_used_nor_deleted(on_server, chroma):
    retriever = on_server()
    with client_of(chroma) as client:
        client.create_collection(retriever.collection, embedding_function=None).add(ids=["a"], embeddings=[[1.0, 0.0]])
        with pytest.raises(RetrievalError, match="Nothing was changed"):
            retriever.open()
        with pytest.raises(RetrievalError, match="Nothing was deleted"):
            retriever.remove()
        assert client.get_collection(retriever.collection, embedding_function=None).count() == 1


@pytest.mark.slow
def test_missing_rows_and_exchanged_vectors_are_refused(on_server, chroma):
    with on_server() as retriever:
        name = retriever.collection
    with client_of(chroma) as client:
        collection = client.get_collection(name, embedding_function=None)
        row = collection.get(ids=["doc-3"], include=["embeddings", "metadatas"])
        collection.update(ids=["doc-3"], embeddings=[[0.0] * 255 + [1.0]])
        with pytest.raises(RetrievalError, match=r"Expected 12 known passages to find themselves in .*, got 1 that"):
            on_server().open()
        collection.update(ids=["doc-3"], embeddings=row["embeddings"])
        with on_server():
            pass
        collection.delete(ids=["doc-3"])
    with pytest.raises(RetrievalError, match=r"Expected 12 passages in the collection .*, got 11\. Set another"):
        on_server().open()


@pytest.mark.slow
def test_a_graph_that_the_server_lost_is_refused(make_retriever, write_corpus, tmp_path):
    write_corpus(PLACES)
    chroma = RunningChroma(tmp_path / "chroma")
    try:
        server = ChromaServer(chroma.url)
        make_retriever(path=None, server=server).build(lambda line: None)
        chroma.kill()
        [folder] = [path for path in (tmp_path / "chroma").iterdir() if path.is_dir()]
        shutil.rmtree(folder)
        chroma.start()
        for settings in ({}, HNSW):
            with pytest.raises(
                RetrievalError, match=r"the Chroma server at .* build it anew: llds index -c FILE --overwrite"
            ):
                make_retriever(path=None, server=server, **settings).open()
    finally:
        chroma.kill()


def test_a_collection_of_somebody_else_is_refused_and_left_alone(on_server, chroma):
    name = on_server().collection
    with client_of(chroma) as client:
        client.create_collection(name, embedding_function=None, metadata={"mine": "yes"}).add(
            ids=["x"], embeddings=[[1.0]]
        )
        with pytest.raises(RetrievalError, match="to be an index of llds, got one without a manifest"):
            on_server().open()
        assert client.get_collection(name, embedding_function=None).count() == 1


# Builds


@pytest.mark.slow
def test_a_build_of_another_machine_is_waited_for_until_it_stands_still(on_server, chroma, monkeypatch, caplog):
    monkeypatch.setattr(index_server, "_LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(index_server, "_STALLED_AFTER_S", 2.0)
    name = f"{on_server().collection}.building"
    with client_of(chroma) as client:
        half = client.create_collection(name, embedding_function=None, metadata={"host": "elsewhere"})

        def build() -> None:
            for number in range(6):
                time.sleep(0.1)
                half.add(ids=[str(number)], embeddings=[[1.0, 0.0]])

        thread = threading.Thread(target=build)
        thread.start()
        with on_server() as retriever:
            assert not thread.is_alive()
            assert retriever.describe()["rows"] == 12
        thread.join()
    assert "stands still" in caplog.text


def test_hosts_and_ports_of_addresses():
    assert (ChromaServer("http://a").host, ChromaServer("http://a").port) == ("a", 8000)
    assert (ChromaServer("https://a").port, ChromaServer("https://a").is_encrypted) == (443, True)
    assert (ChromaServer("http://[::1]:81/").host, ChromaServer("http://[::1]:81/").port) == ("::1", 81)

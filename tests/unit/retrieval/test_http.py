"""The HTTP retriever against servers that are good, slow, broken, gone and back again."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import chain, cycle
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response, StreamingResponse

from llds.errors import ConfigurationError, RetrievalError
from llds.retrieval import HTTPRetriever, Passage, http
from llds.retrieval.adaptive_timeout import AdaptiveTimeout
from llds.retrieval.connections import Connections
from llds.retrieval.http import _MAX_CONNECTIONS
from tests.servers import PARIS, answered_by, answering, paris, serving

FOUND = Passage("7", "Paris", "Paris is the capital of France.", 0.5)
BAD: dict[str, Any] = {
    "not JSON": Response(b"<html>Bad gateway</html>"),
    "another JSON": {"results": []},
    "too short": {"result": [[]]},
    "too long": {"result": [[], [], []]},
    "no documents": {"result": [[{"score": 1.0}], []]},
    "status 500": Response(b"oops", 500),
    "status 503": Response(b"busy", 503),
    "status 429": Response(b"slow down", 429),
    "nested too deeply": Response(b"[" * 100_000),
    "wrong encoding": Response(b"abc", headers={"Content-Encoding": "gzip"}),
}


class Server:
    """Answers well but for the requests that a test spoils; the first one, from open(), is good."""

    def __init__(self, *spoiled: Any) -> None:
        self.replies = [paris, *spoiled]
        self.requests: list[dict[str, Any]] = []

    def __call__(self, request: dict[str, Any]) -> Any:
        """The next reply."""
        self.requests.append(request)
        reply = self.replies.pop(0) if self.replies else paris
        return reply(request) if callable(reply) and not isinstance(reply, Response) else reply


def retriever_of(url: str, **settings: Any) -> HTTPRetriever:
    return HTTPRetriever(url, **{"timeout_s": 5.0, "backoff_s": 0.0, **settings})


def test_a_server_that_replies_as_search_r1_does_is_read() -> None:
    server = Server()
    with answered_by(answering(server)) as url, retriever_of(url) as retriever:
        assert retriever.retrieve(["a", "b"], 3) == [[FOUND], [FOUND]]
    asked = server.requests[-1]
    assert {key: asked[key] for key in ("queries", "topk", "return_scores")} == {
        "queries": ["a", "b"],
        "topk": 3,
        "return_scores": True,
    }
    assert asked["headers"]["content-type"] == "application/json"
    assert "authorization" not in asked["headers"]


def test_a_server_that_never_gives_scores_is_read() -> None:
    with (
        answered_by(answering(lambda _: {"result": [[PARIS]] * len(_["queries"])})) as url,
        retriever_of(url) as retriever,
    ):
        assert retriever.retrieve(["a"], 3) == [[Passage("7", "Paris", "Paris is the capital of France.", 0.0)]]


def test_many_queries_go_in_requests_of_a_size() -> None:
    server = Server()
    with answered_by(answering(server)) as url, retriever_of(url, max_queries=2) as retriever:
        assert retriever.retrieve(["a", "b", "c", "d", "e"], 1) == [[FOUND]] * 5
    assert [request["queries"] for request in server.requests[-3:]] == [["a", "b"], ["c", "d"], ["e"]]


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_a_bad_answer_is_asked_for_again(bad: Any) -> None:
    server = Server(bad, bad)
    with answered_by(answering(server)) as url, retriever_of(url) as retriever:
        assert retriever.retrieve(["a", "b"], 3) == [[FOUND], [FOUND]]
        assert len(server.requests) == 4  # of open(), two bad ones, a good one


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_bad_answers_are_an_error_after_the_last_try(bad: Any) -> None:
    server = Server(bad, bad, bad)
    with answered_by(answering(server)) as url, retriever_of(url) as retriever:
        with pytest.raises(RetrievalError, match=f"{url}/retrieve failed 3 times, last: "):
            retriever.retrieve(["a", "b"], 3)
        assert len(server.requests) == 4
        assert retriever.retrieve(["a", "b"], 3) == [[FOUND], [FOUND]]


@pytest.mark.parametrize(("status", "advice"), [(401, "token_file"), (404, "path"), (413, "max_queries"), (400, "x y")])
def test_a_refusal_is_not_asked_for_again(status: int, advice: str) -> None:
    server = Server(Response(b'{"error":\n"x y"}', status))
    with answered_by(answering(server)) as url, retriever_of(url) as retriever:
        with pytest.raises(RetrievalError, match=f"HTTP status {status}.*{advice}"):
            retriever.retrieve(["a"], 3)
        assert len(server.requests) == 2


def test_a_slow_answer_is_given_up() -> None:
    gate = threading.Event()

    def slow(request: dict[str, Any]) -> Response:
        def parts() -> Iterator[bytes]:
            gate.wait(10)
            yield b"{}"

        return StreamingResponse(parts())

    with answered_by(answering(Server(slow, slow))) as url:
        with retriever_of(url, timeout_s=0.2, max_retries=1) as retriever:
            with pytest.raises(RetrievalError, match=r"failed 2 times, last: No whole answer within 0.2 s"):
                retriever.retrieve(["a"], 3)
            assert retriever.retrieve(["a"], 3) == [[FOUND]]
        gate.set()


@pytest.mark.slow
def test_a_lost_answer_of_a_quick_server_costs_a_second_not_all_that_is_allowed() -> None:
    gate = threading.Event()

    def hanging(request: dict[str, Any]) -> Response:
        def parts() -> Iterator[bytes]:
            gate.wait(20)
            yield b"{}"

        return StreamingResponse(parts())

    with answered_by(answering(Server(hanging))) as url:
        with retriever_of(url, timeout_s=15.0) as retriever:
            started = time.monotonic()
            assert retriever.retrieve(["a"], 3) == [[FOUND]]
            assert time.monotonic() - started < 10
        gate.set()


@pytest.mark.slow
def test_an_answer_that_takes_longer_than_those_before_is_waited_for_at_another_try(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("llds.retrieval.adaptive_timeout._FACTOR", 0.0)  # a busy machine answers slowly from the start

    def takes_long(request: dict[str, Any]) -> Any:
        time.sleep(1.5)  # more than the second that the first try waits, as a batch of many queries may take
        return paris(request)

    server = Server(takes_long, takes_long)
    with answered_by(answering(server)) as url, retriever_of(url, max_retries=1) as retriever:
        assert retriever.retrieve(["a"] * 100, 3) == [[FOUND]] * 100
    assert len(server.requests) == 3  # at open(), one given up, one waited for


def test_an_answer_that_drips_is_given_up_though_each_byte_comes_in_time() -> None:
    def dripping(request: dict[str, Any]) -> Response:
        def parts() -> Iterator[bytes]:
            for _ in range(200):
                yield b" "
                time.sleep(0.02)

        return StreamingResponse(parts())

    with answered_by(answering(Server(dripping))) as url, retriever_of(url, timeout_s=0.3, max_retries=0) as retriever:
        started = time.monotonic()
        with pytest.raises(RetrievalError, match=r"No whole answer within 0\.3 s \(`timeout_s` is 0\.3\)"):
            retriever.retrieve(["a"], 3)
        assert time.monotonic() - started < 3  # the answer would have taken 4


def test_a_server_that_is_down_is_an_error_and_found_again_when_it_is_back() -> None:
    with serving(answering(paris)) as url:
        retriever = retriever_of(url)
        retriever.open()
        assert retriever.retrieve(["a"], 3) == [[FOUND]]
    with pytest.raises(RetrievalError, match="failed 3 times, last: ConnectError"):
        retriever.retrieve(["a"], 3)
    with serving(answering(paris), port=int(url.rpartition(":")[2])):
        assert retriever.retrieve(["a"], 3) == [[FOUND]]
    retriever.close()


@pytest.mark.slow
def test_a_server_that_hung_with_every_connection_taken_is_found_again_when_it_is_back() -> None:
    gate = threading.Event()

    def hanging(request: dict[str, Any]) -> Any:
        if request["queries"] != ["hang"]:
            return paris(request)

        def parts() -> Iterator[bytes]:
            gate.wait(10)
            yield b"{}"

        return StreamingResponse(parts())

    with serving(answering(hanging)) as url:
        retriever = retriever_of(url, timeout_s=0.5, max_retries=0)
        retriever.open()
        with ThreadPoolExecutor(_MAX_CONNECTIONS + 8) as pool:
            calls = [pool.submit(retriever.retrieve, ["hang"], 1) for _ in range(_MAX_CONNECTIONS + 8)]
        assert all("No whole answer" in str(call.exception()) for call in calls)
        gate.set()
    with serving(answering(paris), port=int(url.rpartition(":")[2])), ThreadPoolExecutor(_MAX_CONNECTIONS) as pool:
        assert list(pool.map(lambda _: retriever.retrieve(["a"], 1), range(_MAX_CONNECTIONS))) == [[[FOUND]]] * (
            _MAX_CONNECTIONS
        )
    retriever.close()


@pytest.mark.parametrize("bad", [BAD["not JSON"], BAD["another JSON"], BAD["status 500"], Response(b"?", 404)])
def test_open_refuses_what_is_no_retrieval_server_and_says_what_to_do(bad: Any) -> None:
    with answered_by(answering(lambda _: bad)) as url, pytest.raises(RetrievalError) as raised:
        retriever_of(url).open()
    for part in (
        f"{url}/retrieve",
        "`retrieval.retriever.init_args.url`",
        "llds serve-retriever",
        "correct the address",
    ):
        assert part in str(raised.value)


def test_open_refuses_a_port_where_nobody_listens() -> None:
    with serving(answering(paris)) as url:
        pass
    with pytest.raises(RetrievalError, match=r"init_args\.url.*ConnectError.*Start one"):
        retriever_of(url, max_retries=0).open()


def test_a_server_that_tells_nothing_is_known_by_its_answers() -> None:
    def lyon(request: dict[str, Any]) -> dict[str, Any]:
        return {"result": [[{"id": "7", "contents": '"Lyon"\nLyon is in France.'}] for _ in request["queries"]]}

    fingerprints = []
    for reply in (paris, paris, lyon):
        with answered_by(answering(reply)) as url, retriever_of(url) as retriever:
            fingerprints.append(retriever.fingerprint)
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_a_closed_retriever_says_so_and_opens_again() -> None:
    with answered_by(answering(paris)) as url:
        retriever = retriever_of(url)
        with pytest.raises(RetrievalError, match="open"):
            retriever.retrieve(["a"], 3)
        for _ in range(2):
            retriever.open()
            retriever.open()
            assert retriever.retrieve(["a"], 3) == [[FOUND]]
            retriever.close()


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("http://host:1", "http://host:1/retrieve"),
        ("https://host/", "https://host/retrieve"),
        ("http://host/api/retrieve", "http://host/api/retrieve"),
        ("http://[::1]:8000", "http://[::1]:8000/retrieve"),
    ],
)
def test_the_path_is_added_where_there_is_none(url: str, asked: str) -> None:
    assert HTTPRetriever(url).url == asked


@pytest.mark.parametrize(
    "url", ["", "localhost:8000", "ftp://host", "http://", "http://host:port", "http://host:99999"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"`retrieval\.retriever\.init_args\.url`"):
        HTTPRetriever(url)


@pytest.mark.parametrize(
    "url",
    ["http://me:hunter2@host:1", "http://hunter2@host", "http://host/retrieve?key=hunter2", "http://host/#hunter2"],
)
def test_an_address_with_a_secret_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigurationError, match="Use `token_file`") as refusal:
        HTTPRetriever(url)
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_server_that_sends_elsewhere_is_not_followed(status: int) -> None:
    asked: list[Any] = []

    def elsewhere(request: dict[str, Any]) -> Any:
        asked.append(request)
        return paris(request)

    with serving(answering(elsewhere)) as other:
        sends = Response(status_code=status, headers={"Location": f"{other}/retrieve"})
        expected = pytest.raises(RetrievalError, match=f"{status}.*elsewhere")
        with answered_by(answering(lambda request: sends)) as url, expected:
            retriever_of(url).open()
    assert asked == []


def test_the_token_goes_to_the_server_and_into_no_message(tmp_path: Path) -> None:
    seen: list[str] = []

    def refuse(request: dict[str, Any]) -> Response:
        seen.append(request["headers"]["authorization"])
        return Response(b"no", 401)

    (tmp_path / "token").write_text("hunter2\n")
    with (
        answered_by(answering(refuse)) as url,
        pytest.raises(RetrievalError, match="token") as refusal,
    ):
        retriever_of(url, token_file=str(tmp_path / "token")).open()
    assert seen == ["Bearer hunter2"]
    assert "hunter2" not in str(refusal.value)


def test_an_answer_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_MAX_REPLY_BYTES", 1_000_000)

    def endless(request: dict[str, Any]) -> StreamingResponse:
        return StreamingResponse(b" " * 65536 for _ in iter(int, 1))

    with (
        answered_by(answering(endless)) as url,
        pytest.raises(RetrievalError, match="at most 1,000,000 bytes, got more"),
    ):
        retriever_of(url, max_retries=0).open()


@contextmanager
def dripping(reply: bytes) -> Iterator[str]:
    """A server that sends its reply byte by byte for ever, and never waits long before the next."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        over = threading.Event()

        def serve() -> None:
            with suppress(OSError):  # the client hangs up, the test closes the listener
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    for byte in chain(reply, cycle(b"x")):
                        connection.sendall(bytes([byte]))
                        if over.wait(0.02):
                            return

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        over.set()


@pytest.mark.parametrize("reply", [b"HTTP/1.1 200 OK\r\nX-Drip: ", b"HTTP/1.1 200 OK\r\n\r\n"], ids=["head", "body"])
def test_a_reply_that_drips_is_given_up_when_its_time_is_over(reply: bytes) -> None:
    with dripping(reply) as url:
        connections, started = Connections(1), time.monotonic()
        with pytest.raises(TimeoutError):
            connections.exchange("GET", url, 0.3, 1_000_000)
        assert time.monotonic() - started < 30  # a dripping server would keep it for ever
        connections.close()


def test_documents_without_a_text_are_left_out_counted_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    documents = [{"document": PARIS, "score": 0.5}, {"document": {"id": "2", "contents": ""}, "score": 0.4}]
    reply = answering(lambda asked: {"result": [documents] * len(asked["queries"])})
    with answered_by(reply) as url, retriever_of(url) as retriever:
        before = retriever.left_out
        assert retriever.retrieve(["a", "b"], 3) == [[FOUND], [FOUND]]
        assert retriever.left_out - before == 2
    said = [record.levelname for record in caplog.records if "without a text" in record.message]
    assert said.count("WARNING") == 1


@pytest.mark.parametrize(
    "setting", [{"timeout_s": 0.0}, {"max_retries": -1}, {"backoff_s": -1.0}, {"max_queries": 0}], ids=str
)
def test_settings_out_of_range_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(setting))):
        HTTPRetriever("http://host", **setting)


@pytest.mark.parametrize("content", [None, b"", b"two words", b"\xff"])
def test_a_token_that_cannot_be_read_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="`token_file`"):
        HTTPRetriever("http://host", token_file=str(path)).open()


def after(answers: list[float], limit_s: float = 10.0) -> AdaptiveTimeout:
    timeout = AdaptiveTimeout(limit_s)
    for seconds in answers:
        timeout.record(seconds)
    return timeout


def test_before_any_answer_all_that_is_allowed_is_waited() -> None:
    assert [AdaptiveTimeout(10.0).seconds(times) for times in range(3)] == [10.0] * 3


@pytest.mark.parametrize(
    ("answers", "waits"),
    [
        ([0.01, 0.02], [1.0, 3.0, 9.0, 10.0]),  # at least a second, times 3 for each wait in vain, at most the limit
        ([0.5] * 4, [2.0, 6.0, 10.0, 10.0]),  # 4 x what is usual
        ([0.5, 0.01, 0.01, 0.01, 0.4], [1.6, 4.8, 10.0, 10.0]),  # the third of four quarters: 0.4
        ([3.0], [10.0, 10.0, 10.0, 10.0]),
    ],
)
def test_a_first_try_waits_a_few_usual_answers_and_more_after_waits_in_vain(
    answers: list[float], waits: list[float]
) -> None:
    assert [after(answers).seconds(times) for times in range(4)] == pytest.approx(waits)


def test_a_lost_answer_now_and_then_changes_nothing_and_many_do() -> None:
    assert after([0.01] * 14 + [1.0] * 2).seconds(0) == 1.0
    assert after([0.01] * 11 + [1.0] * 5).seconds(0) == 4.0


def test_a_server_that_turned_slow_gets_all_that_is_allowed_in_the_end_and_a_quick_one_little_again() -> None:
    timeout = after([0.01] * 16)
    for _ in range(20):
        timeout.record(timeout.seconds(0))  # every wait is in vain
    assert timeout.seconds(0) == 10.0
    for _ in range(16):
        timeout.record(0.01)
    assert timeout.seconds(0) == 1.0


def test_a_limit_below_a_second_is_kept() -> None:
    assert after([0.01], limit_s=0.5).seconds(0) == 0.5

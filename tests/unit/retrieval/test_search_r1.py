"""The protocol, against what Search-R1's own code sends and returns."""

import json
from typing import Any

import pytest

from llds.errors import DataError, RetrievalError
from llds.retrieval import Passage
from llds.retrieval.search_r1 import RequestLimits, RetrieveRequest, encode_reply, parse_reply, parse_request

PARIS = {"id": "7", "contents": '"Paris"\nParis is the capital of France.'}
LIMITS = RequestLimits(queries=2, query_chars=10, top_k=5)
GOOD = {"queries": ["q"], "topk": 3}


def passage_of(item: Any) -> Passage:
    """The passage that a reply with one document gives."""
    [[passage]] = parse_reply({"result": [[item]]}, 1, 3)
    return passage


def test_a_request_of_search_r1_is_understood() -> None:
    # search_r1/llm_agent/generation.py, _batch_search
    body = {"queries": ["a", "b"], "topk": 3, "return_scores": True}
    assert parse_request(body, 1, LIMITS) == RetrieveRequest(["a", "b"], 3, True)


@pytest.mark.parametrize("body", [{"queries": ["a"]}, {"queries": ["a"], "topk": None}, {"queries": ["a"], "topk": 0}])
def test_the_number_of_passages_is_the_servers_where_the_request_names_none(body: dict[str, Any]) -> None:
    assert parse_request(body, 2, LIMITS) == RetrieveRequest(["a"], 2, False)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "JSON object"),
        ({}, "`queries`"),
        ({"queries": "q"}, "list of strings"),
        ({"queries": [1]}, "list of strings"),
        ({"queries": ["a", "b", "c"]}, "at most 2"),
        ({"queries": ["a" * 11]}, "at most 10 characters"),
        ({"queries": ["\ud800"]}, "lone surrogate"),
        (GOOD | {"topk": 6}, "from 1 to 5, got 6"),
        (GOOD | {"topk": -1}, "from 1 to 5"),
        (GOOD | {"topk": True}, "from 1 to 5"),
        (GOOD | {"topk": "3"}, "from 1 to 5, got '3'"),
        (GOOD | {"return_scores": "yes"}, "`return_scores`"),
    ],
)
def test_a_bad_request_is_refused_with_what_was_expected(body: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_request(body, 3, LIMITS)


def test_a_reply_is_written_as_search_r1_writes_it() -> None:
    passage = Passage("7", "Paris", "Paris is the capital of France.", 0.5)
    assert encode_reply([[passage], []], True) == {"result": [[{"document": PARIS, "score": 0.5}], []]}
    assert encode_reply([[passage]], False) == {"result": [[PARIS]]}


@pytest.mark.parametrize("title", ["", "Paris", 'The "Best" of'])
@pytest.mark.parametrize("text", ["one line", "two\nlines", '"quoted"\ntext'])
def test_what_is_written_reads_back_the_same(title: str, text: str) -> None:
    passages = [[Passage("a", title, text, 0.1 + 0.2)], []]
    assert parse_reply(json.loads(json.dumps(encode_reply(passages, True))), 2, 3) == passages


@pytest.mark.parametrize(
    ("item", "passage"),
    [
        ({"document": PARIS, "score": 2}, Passage("7", "Paris", "Paris is the capital of France.", 2.0)),
        (PARIS, Passage("7", "Paris", "Paris is the capital of France.", 0.0)),
        (PARIS | {"id": 7}, Passage("7", "Paris", "Paris is the capital of France.", 0.0)),
        # a Lucene index with stored contents, and the two web search servers: no id, no score
        (
            {"document": {"title": "Paris", "text": "x", "contents": '"Paris"\nx'}, "score": 9.5},
            Passage("e2dae130b874fa2f", "Paris", "x", 9.5),
        ),
        ({"document": {"contents": '"Paris"\nx'}}, Passage("e2dae130b874fa2f", "Paris", "x", 0.0)),
        ({"document": '"Paris"\nx', "score": 1.5}, Passage("e2dae130b874fa2f", "Paris", "x", 1.5)),  # the reranker
    ],
)
def test_documents_are_read_in_every_shape_that_servers_of_search_r1_give(item: Any, passage: Passage) -> None:
    assert passage_of(item) == passage


def test_a_server_that_ignores_the_number_of_passages_is_cut_in_its_order() -> None:
    documents = [PARIS | {"id": str(number)} for number in range(5)]
    [passages] = parse_reply({"result": [documents]}, 1, 2)
    assert [passage.document_id for passage in passages] == ["0", "1"]


@pytest.mark.parametrize("contents", ["", "  ", None, '"T"\n'])
def test_a_document_without_a_text_is_left_out_and_the_others_are_used(contents: Any) -> None:
    left_out: list[int] = []
    empty = {"document": {"id": "2", "contents": contents}, "score": 0.5}
    reply = {"result": [[{"document": {"id": "1", "contents": '"T"\nsome text'}, "score": 0.9}, empty], [empty]]}
    assert parse_reply(reply, 2, 3, lambda: left_out.append(1)) == [[Passage("1", "T", "some text", 0.9)], []]
    assert len(left_out) == 2


@pytest.mark.parametrize(
    "reply",
    [
        None,
        "error",
        [],
        {},
        {"result": None},
        {"result": []},
        {"result": [[], []]},
        {"result": [None]},
        {"result": [[None]]},
        {"result": [[[]]]},
        {"result": [[{}]]},
        {"result": [[{"document": None, "score": 1}]]},
        {"result": [[{"id": "1", "contents": 3}]]},
        {"result": [[{"id": "1", "contents": "\ud800"}]]},
        {"result": [[PARIS | {"id": []}]]},
        {"result": [[PARIS | {"id": True}]]},
        {"result": [[{"document": PARIS, "score": "high"}]]},
        {"result": [[{"document": PARIS, "score": float("nan")}]]},
    ],
)
def test_garbage_is_an_error_and_never_a_passage(reply: Any) -> None:
    with pytest.raises(RetrievalError, match="Expected"):
        parse_reply(reply, 1, 3)

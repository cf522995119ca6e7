"""The search tool: batching, one question per query and iteration, failures, and the text that the policy reads."""

import asyncio
import threading
import time

import pytest

from llds.agent_tools import SearchTool, outage
from llds.agent_tools.search import format_passages
from llds.errors import ConfigurationError, RetrievalError, RetrieverUnavailableError, ToolFailure, ToolInputError
from llds.retrieval import Passage, Retriever


class CountingRetriever(Retriever):
    """Answers from memory and records every call: here the number of calls is the point."""

    def __init__(self):
        self.calls: list[list[str]] = []
        self.threads: set[int] = set()
        self.failures: list[Exception] = []
        self.delay_s = 0.0
        self.may_answer = threading.Event()
        self.may_answer.set()

    def retrieve(self, queries, top_k):
        """One passage per rank, or the next failure."""
        self.calls.append(list(queries))
        self.threads.add(threading.get_ident())
        time.sleep(self.delay_s)
        assert self.may_answer.wait(60)
        if self.failures:
            raise self.failures.pop(0)
        return [[Passage(f"{query}/{rank}", f"Title {rank}", query) for rank in range(top_k)] for query in queries]

    def describe(self):
        """Its name."""
        return {"retriever": "counting"}


@pytest.fixture
def retriever():
    return CountingRetriever()


@pytest.fixture
def tool(retriever):
    tool = SearchTool(top_k=2)
    tool.attach(retriever)
    return tool


async def ask(tool, *queries):
    return await asyncio.gather(*(tool.run(query) for query in queries), return_exceptions=True)


def documents(results):
    return [result.document_ids for result in results]


def test_passages_are_formatted_one_a_line_with_their_titles():
    passages = [Passage("1", "Paris", "The capital\nof France."), Passage("2", 'A "B"\n', "Two\r\nlines\u2028more")]
    assert format_passages(passages) == (
        'Doc 1(Title: "Paris") The capital of France.\nDoc 2(Title: "A "B"") Two lines more'
    )


def test_no_passage_is_said_in_words():
    assert format_passages([]) == "No passage was found."


def test_a_query_gets_its_passages_with_their_ids(tool):
    [result] = asyncio.run(ask(tool, "capital of France"))
    assert result.text == 'Doc 1(Title: "Title 0") capital of France\nDoc 2(Title: "Title 1") capital of France'
    assert result.document_ids == ("capital of France/0", "capital of France/1")


def test_concurrent_queries_go_to_the_retriever_in_one_call_off_the_event_loop(tool, retriever):
    queries = [f"query {number}" for number in range(64)]
    results = asyncio.run(ask(tool, *queries))
    assert retriever.calls == [queries]
    assert retriever.threads.isdisjoint({threading.get_ident()})
    assert documents(results) == [(f"{query}/0", f"{query}/1") for query in queries]


def test_the_event_loop_goes_on_while_the_retriever_works(tool, retriever):
    retriever.may_answer.clear()

    async def main():
        asked = asyncio.create_task(tool.run("x"))
        await called(retriever, 1)  # the loop goes on, though nothing is answered
        retriever.may_answer.set()
        await asked

    asyncio.run(main())


async def called(retriever, times):
    """Return when the retriever has been called so often."""
    async with asyncio.timeout(60):
        while len(retriever.calls) < times:
            await asyncio.sleep(0.001)


def test_queries_of_a_later_pass_do_not_wait_for_an_earlier_call(tool, retriever):
    retriever.may_answer.clear()

    async def main():
        first = asyncio.create_task(tool.run("a"))
        await called(retriever, 1)
        second = asyncio.create_task(tool.run("b"))
        await called(retriever, 2)
        retriever.may_answer.set()
        await asyncio.gather(first, second)

    asyncio.run(main())
    assert retriever.calls == [["a"], ["b"]]


def test_queries_that_come_while_the_first_lingers_share_its_call(retriever):
    tool = SearchTool(linger_s=30.0, max_batch=4)
    tool.attach(retriever)

    async def main():
        asked = []
        for number in range(4):
            asked.append(asyncio.create_task(tool.run(f"q{number}")))
            await asyncio.sleep(0.005)
        return await asyncio.gather(*asked)

    results = asyncio.run(main())
    assert retriever.calls == [["q0", "q1", "q2", "q3"]]
    assert [ids[0] for ids in documents(results)] == ["q0/0", "q1/0", "q2/0", "q3/0"]


def test_a_full_call_goes_at_once_and_none_is_larger(retriever):
    tool = SearchTool(linger_s=30.0, max_batch=2)
    tool.attach(retriever)
    asyncio.run(asyncio.wait_for(ask(tool, "a", "b", "c", "d"), 10))
    assert retriever.calls == [["a", "b"], ["c", "d"]]


def test_what_comes_while_all_calls_are_under_way_shares_the_next(retriever):
    tool = SearchTool(max_calls=1)
    tool.attach(retriever)
    retriever.may_answer.clear()

    async def main():
        asked = [asyncio.create_task(tool.run("q0"))]
        await called(retriever, 1)
        for number in range(1, 5):
            asked.append(asyncio.create_task(tool.run(f"q{number}")))
            await asyncio.sleep(0.005)
        retriever.may_answer.set()
        await asyncio.gather(*asked)

    asyncio.run(main())
    assert retriever.calls == [["q0"], ["q1", "q2", "q3", "q4"]]
    assert tool.statistics.calls == 2


def test_a_failed_call_gives_its_place_to_the_next(retriever):
    tool = SearchTool(max_calls=1)
    tool.attach(retriever)
    retriever.failures = [RetrievalError("down")]
    retriever.delay_s = 0.02
    first, second = asyncio.run(ask(tool, "a")), asyncio.run(ask(tool, "a"))
    assert isinstance(first[0], ToolFailure)
    assert documents(second) == [("a/0", "a/1", "a/2")]


@pytest.mark.parametrize(
    "settings", [{"linger_s": -1.0}, {"linger_s": float("inf")}, {"max_batch": 0}, {"max_calls": 0}]
)
def test_settings_of_calls_out_of_range_are_refused(settings):
    with pytest.raises(ConfigurationError, match="linger_s >= 0"):
        SearchTool(**settings)


def test_an_identical_query_is_asked_once_together_in_flight_and_later(tool, retriever):
    retriever.may_answer.clear()

    async def main():
        early = asyncio.create_task(ask(tool, "same", " same\n", "other"))
        await called(retriever, 1)
        waiting = asyncio.create_task(tool.run("same"))
        await asyncio.sleep(0)
        retriever.may_answer.set()
        in_flight = await waiting
        later = await tool.run("same")
        return [*await early, in_flight, later]

    results = asyncio.run(main())
    assert retriever.calls == [["same", "other"]]
    assert [ids[0] for ids in documents(results)] == ["same/0", "same/0", "other/0", "same/0", "same/0"]
    statistics = tool.statistics
    assert (statistics.queries, statistics.cached, statistics.calls, statistics.failed_calls) == (5, 3, 1, 0)
    assert statistics.retriever_s > 0


@pytest.mark.parametrize(("size", "asked_again"), [(0, ["a", "b", "c"]), (2, ["b"]), (10, [])])
def test_the_answers_that_were_used_last_outlive_their_iteration(retriever, size, asked_again):
    tool = SearchTool(cache_size=size)
    tool.attach(retriever)
    asyncio.run(ask(tool, "a", "b", "c"))
    asyncio.run(ask(tool, "a"))  # another event loop of the same iteration; "b" is now what was used longest ago
    assert retriever.calls == [["a", "b", "c"]]
    assert (tool.statistics.cached, tool.statistics.remembered) == (1, 0)
    tool.begin_iteration()
    assert tool.statistics.queries == 0
    asyncio.run(ask(tool, "a", "b", "c", "a"))
    assert retriever.calls[1:] == ([asked_again] if asked_again else [])
    assert (tool.statistics.queries, tool.statistics.cached) == (4, 1)
    assert tool.statistics.remembered == 3 - len(asked_again)


def test_the_memory_for_answers_is_bounded(retriever):
    tool = SearchTool(cache_size=5)
    tool.attach(retriever)
    for iteration in range(20):
        tool.begin_iteration()
        assert len(tool._answers) <= 5
        asyncio.run(ask(tool, *(f"{iteration} {number}" for number in range(8))))


def test_another_retriever_is_not_answered_for(tool, retriever):
    asyncio.run(ask(tool, "a"))
    other = CountingRetriever()
    tool.attach(other)
    asyncio.run(ask(tool, "a"))
    assert other.calls == [["a"]]


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (RetrievalError("index is gone"), ToolFailure),
        (ConnectionError("down"), ConnectionError),
        (TimeoutError(), TimeoutError),
        (KeyError("bug"), KeyError),
    ],
)
def test_a_failure_reaches_every_query_of_the_call_and_is_not_remembered(tool, retriever, failure, expected):
    retriever.failures = [failure]
    assert [type(result) for result in asyncio.run(ask(tool, "a", "b", "a"))] == [expected] * 3
    assert tool.statistics.failed_calls == 1
    results = asyncio.run(ask(tool, "a"))
    assert documents(results) == [("a/0", "a/1")]
    assert retriever.calls == [["a", "b"], ["a"]]


def test_a_retry_in_the_same_event_loop_asks_again(tool, retriever):
    retriever.failures = [RetrievalError("busy")]

    async def main():
        with pytest.raises(ToolFailure, match="busy"):
            await tool.run("a")
        return await tool.run("a")

    assert asyncio.run(main()).document_ids == ("a/0", "a/1")
    assert retriever.calls == [["a"], ["a"]]


def test_a_server_that_is_gone_is_waited_for_and_told_of_once(tool, retriever, monkeypatch, caplog):
    monkeypatch.setattr(outage, "_POLL_S", 0.01)
    monkeypatch.setattr(outage, "_TELL_AFTER_S", 0.005)
    tool.attach(retriever, patience_s=20.0)
    retriever.failures = [RetrieverUnavailableError("refused")] * 4
    results = asyncio.run(ask(tool, "a", "b"))
    assert documents(results) == [("a/0", "a/1"), ("b/0", "b/1")]
    assert (tool.statistics.calls, tool.statistics.failed_calls) == (5, 4)
    assert [record.getMessage()[:28] for record in caplog.records] == [
        "The retriever does not answe",
        "The retriever answers again,",
    ]


def test_patience_ends_for_all_who_ask_until_an_answer_comes(tool, retriever, monkeypatch):
    monkeypatch.setattr(outage, "_POLL_S", 0.01)
    tool.attach(retriever, patience_s=0.05)
    retriever.failures = [RetrieverUnavailableError("refused")] * 1000
    for query in ("a", "b"):
        before = len(retriever.calls)
        with pytest.raises(ToolFailure, match="refused"):
            asyncio.run(tool.run(query))
    assert len(retriever.calls) - before == 1
    retriever.failures = []
    assert asyncio.run(tool.run("b")).document_ids == ("b/0", "b/1")


def test_a_tool_that_remembers_nothing_asks_again_in_a_new_iteration_of_the_same_event_loop(retriever):
    tool = SearchTool(cache_size=0)
    tool.attach(retriever)

    async def main():
        await tool.run("a")
        tool.begin_iteration()
        await tool.run("a")

    asyncio.run(main())
    assert retriever.calls == [["a"], ["a"]]


def test_a_caller_that_runs_into_its_deadline_leaves_the_answer_to_the_others(tool, retriever):
    retriever.delay_s = 0.2

    async def main():
        patient = asyncio.create_task(tool.run("a"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(tool.run("a"), timeout=0.05)
        return await patient

    assert asyncio.run(main()).document_ids == ("a/0", "a/1")
    assert retriever.calls == [["a"]]


def test_an_interrupted_event_loop_leaves_nothing_behind_for_the_next(tool, retriever):
    retriever.delay_s = 0.1

    async def interrupted():
        asyncio.create_task(tool.run("a"))  # noqa: RUF006 (left alone on purpose)
        await asyncio.sleep(0.02)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(interrupted())
    assert documents(asyncio.run(asyncio.wait_for(ask(tool, "a"), timeout=2))) == [("a/0", "a/1")]
    assert retriever.calls == [["a"], ["a"]]


def test_an_event_loop_that_was_abandoned_does_not_block_the_next(tool):
    async def start():
        return asyncio.ensure_future(tool.run("a"))

    loop = asyncio.new_event_loop()
    abandoned = loop.run_until_complete(start())
    loop.run_until_complete(asyncio.sleep(0))
    assert documents(asyncio.run(asyncio.wait_for(ask(tool, "a"), timeout=2))) == [("a/0", "a/1")]
    loop.run_until_complete(asyncio.wait_for(abandoned, timeout=2))
    loop.close()


@pytest.mark.parametrize(
    "reply", [[], [[], [], []], [[Passage("1", "t", "x")] * 3, []]], ids=["too few", "too many", "too long"]
)
def test_a_reply_of_the_wrong_length_is_a_failure(tool, retriever, reply, monkeypatch):
    monkeypatch.setattr(retriever, "retrieve", lambda queries, top_k: reply)
    results = asyncio.run(ask(tool, "a", "b"))
    assert all(isinstance(result, ToolFailure) for result in results)
    assert "Expected 2 lists of at most 2 passages, got lists of" in str(results[0])


@pytest.mark.parametrize("query", ["", "  \n"])
def test_an_empty_query_is_the_models_mistake(tool, retriever, query):
    [error] = asyncio.run(ask(tool, query))
    assert isinstance(error, ToolInputError)
    assert "like: capital of France" in str(error)
    assert retriever.calls == []


def test_a_query_over_its_limit_is_the_models_mistake(retriever):
    tool = SearchTool(max_query_chars=10)
    tool.attach(retriever)
    within, over = asyncio.run(ask(tool, "0123456789", "0123456789a"))
    assert isinstance(over, ToolInputError)
    assert "has 11 characters, more than 10" in str(over)
    assert within.document_ids


def test_without_a_retriever_the_message_names_the_callback():
    [error] = asyncio.run(ask(SearchTool(), "a"))
    assert isinstance(error, ConfigurationError)
    assert "Add `llds.callbacks.RetrievalCallback` to `trainer.callbacks`" in str(error)


@pytest.mark.parametrize(
    "settings", [{"top_k": 0}, {"max_query_chars": 0}, {"name": "Search!"}, {"name": "answer"}, {"name": ""}]
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigurationError, match="Expected `"):
        SearchTool(**settings)

"""The retriever's life beside a run, and its signals."""

from pathlib import Path
from typing import Any

import pytest

from llds.agent_tools import CalculatorTool, SearchTool
from llds.callbacks import EvaluationTable, RetrievalCallback
from llds.data import PromptTemplate
from llds.errors import ConfigurationError, TooManyFailuresError
from llds.evaluation import list_records, read_record
from llds.retrieval import Passage, Retriever
from tests.runs import answers, by_iteration, make_run, scripted


class Shelf(Retriever):
    """Two passages; notes when it is opened and closed."""

    def __init__(self, texts: tuple[str, str] = ("The demonym of Ghana is Ghanaian.", "Oslo lies in Norway.")) -> None:
        self.texts = texts
        self.calls: list[str] = []

    def open(self) -> None:
        """Note it."""
        self.calls.append("open")

    def close(self) -> None:
        """Note it."""
        self.calls.append("close")

    def retrieve(self, queries: list[str], top_k: int) -> list[list[Passage]]:
        """Return both passages for each query."""
        return [[Passage(str(number), "", text) for number, text in enumerate(self.texts)][:top_k] for _ in queries]

    def describe(self) -> dict[str, Any]:
        """What it is; known while it is open."""
        assert self.calls[-1:] == ["open"]
        return {"retriever": "shelf"}


def fit(folder: Path, shelf: Shelf | None, script: Any = answers, **changes: Any) -> dict[str, dict[str, str]]:
    # Handed over in the wrong order: the signals must not depend on it.
    run = make_run(folder, RetrievalCallback(shelf), sampler=scripted(script), tools=[SearchTool(top_k=2)], **changes)
    run.fit()
    return by_iteration(folder)


def test_an_agent_that_searches_needs_a_retriever(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"retrieval\.retriever.*ChromaRetriever"):
        fit(tmp_path, None)


def test_an_agent_without_a_search_tool_needs_none_and_its_evaluation_has_results(tmp_path: Path) -> None:
    shelf = Shelf()
    run = make_run(
        tmp_path, RetrievalCallback(shelf), EvaluationTable(), sampler=scripted(answers), tools=[CalculatorTool()]
    )
    run.trainer.test(run.module, run.data, verbose=False)
    [folder] = list_records(tmp_path)
    assert read_record(folder).card["retriever"] is None
    assert shelf.calls == []


def test_a_negative_patience_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"retrieval\.patience_s` >= 0, got -1"):
        RetrievalCallback(patience_s=-1)


@pytest.mark.slow
def test_queries_and_hits_are_those_of_the_iteration(tmp_path: Path) -> None:
    def same_query(iteration: int, trajectory: int, turn: int) -> str:
        if turn == 0 and (iteration == 0 or trajectory == 0):
            return "<search> demonym </search>"
        return "<answer> ? </answer>"

    shelf = Shelf()
    first, second = fit(tmp_path, shelf, same_query).values()
    assert (first["retrieval/queries"], first["retrieval/asked_before"]) == ("8.0", str(7 / 8))
    assert (second["retrieval/queries"], second["retrieval/asked_before"]) == ("1.0", "0.0")
    assert shelf.calls == ["open", "close"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "rate"), [("It is Ghanaian, they say.", 1.0), ("Ghanaians live there.", 0.0), ("Nothing.", 0.0)]
)
def test_a_hit_is_a_gold_answer_as_whole_words(tmp_path: Path, text: str, rate: float) -> None:
    run = make_run(
        tmp_path, RetrievalCallback(Shelf((text, "."))), iterations=1, sampler=scripted(answers), tools=[SearchTool(2)]
    )
    run.data.shuffle = False
    run.data.batch_size = 2
    run.fit()
    [row] = by_iteration(tmp_path).values()
    assert float(row["retrieval/hit_rate"]) == rate / 2  # one of the two questions is about Ghana


@pytest.mark.slow
def test_a_search_tool_that_opens_episodes_is_served_and_measured(tmp_path: Path) -> None:
    shelf = Shelf(("The demonym of Ghana is Ghanaian.", "."))
    run = make_run(
        tmp_path,
        RetrievalCallback(shelf),
        iterations=1,
        sampler=scripted(lambda *_: "<answer> ? </answer>"),
        tools=[],
        module={"opening_tool": SearchTool(2)},
    )
    run.data.template = PromptTemplate("{question} {observation}")
    run.data.shuffle = False
    run.fit()
    [row] = by_iteration(tmp_path).values()
    assert shelf.calls == ["open", "close"]
    assert float(row["retrieval/queries"]) == 8  # once for each trajectory, asked twice: once for each question
    assert float(row["retrieval/asked_before"]) == 6 / 8
    assert float(row["retrieval/hit_rate"]) == 0.5
    assert float(row["rollout/tool_calls"]) == 0  # of the agent


def test_a_run_that_stops_by_an_error_closes_the_retriever(tmp_path: Path) -> None:
    class Broken(Shelf):
        def retrieve(self, queries: list[str], top_k: int) -> list[list[Passage]]:
            raise RuntimeError("no disk")

    shelf = Broken()
    with pytest.raises(TooManyFailuresError, match="no disk"):
        fit(tmp_path, shelf)
    assert shelf.calls == ["open", "close"]

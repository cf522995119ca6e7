"""Reciprocal rank fusion against arithmetic written out, and the life of several retrievers as one."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llds.errors import ConfigurationError, RetrievalError
from llds.retrieval import BM25Retriever, ChromaRetriever, FusionRetriever, HybridRetriever, Passage, Retriever


class Ranking(Retriever):
    """Always finds the same.

    Args:
        found: Ids of the passages, best first.
        events: Gets what happens to it.
    """

    def __init__(self, found: str, events: list[str] | None = None, text: str = "text") -> None:
        self.found = found
        self.text = text
        self.events = events if events is not None else []
        self.asked: list[int] = []

    def open(self) -> None:
        """Note it."""
        self.events.append(f"open {self.found}")

    def close(self) -> None:
        """Note it."""
        self.events.append(f"close {self.found}")

    def retrieve(self, queries: list[str], top_k: int) -> list[list[Passage]]:
        """Return the ranking."""
        self.asked.append(top_k)
        return [[Passage(name, "", self.text, score=99.0) for name in self.found][:top_k] for _ in queries]

    def describe(self) -> dict[str, Any]:
        """What it is."""
        return {"retriever": "ranking", "found": self.found}


class Broken(Ranking):
    """Cannot be opened, or cannot answer."""

    def __init__(self, at: str) -> None:
        super().__init__("x")
        self.at = at

    def open(self) -> None:
        """Fail, if that is wanted."""
        if self.at == "open":
            raise RetrievalError("no disk")

    def retrieve(self, queries: list[str], top_k: int) -> list[list[Passage]]:
        """Fail."""
        raise RetrievalError("no disk")


def test_scores_are_those_of_the_formula(exact: float) -> None:
    with FusionRetriever([Ranking("abc"), Ranking("cda")]) as retriever:
        first, second = retriever.retrieve(["q", "r"], 10)
    # a: 1/61 + 1/63, c: 1/63 + 1/61, b: 1/62, d: 1/62; equal ones in the order of their best rank, then of the list
    expected = {"a": 1 / 61 + 1 / 63, "c": 1 / 63 + 1 / 61, "b": 1 / 62, "d": 1 / 62}
    assert {passage.document_id: passage.score for passage in first} == pytest.approx(expected, abs=exact)
    assert [passage.document_id for passage in first] == ["a", "c", "b", "d"]
    assert first == second


def test_what_both_find_beats_what_one_finds_first() -> None:
    with FusionRetriever([Ranking("ab"), Ranking("cb")]) as retriever:
        [passages] = retriever.retrieve(["q"], 2)
    assert [passage.document_id for passage in passages] == ["b", "a"]


def test_the_constant_decides_how_much_first_ranks_count(exact: float) -> None:
    with FusionRetriever([Ranking("ab"), Ranking("cdeb")], k=0) as retriever:
        [passages] = retriever.retrieve(["q"], 3)
    assert [(passage.document_id, passage.score) for passage in passages] == [
        ("a", pytest.approx(1.0, abs=exact)),
        ("c", pytest.approx(1.0, abs=exact)),
        ("b", pytest.approx(1 / 2 + 1 / 4, abs=exact)),
    ]


@pytest.mark.parametrize(("depth", "top_k", "asked"), [(10, 3, 10), (10, 20, 20)])
def test_each_is_asked_deeper_than_the_answer(depth: int, top_k: int, asked: int) -> None:
    rankings = [Ranking("abc"), Ranking("cab")]
    with FusionRetriever([*rankings], depth=depth) as retriever:
        retriever.retrieve(["q"], top_k)
    assert [ranking.asked for ranking in rankings] == [[asked], [asked]]


def test_they_are_asked_at_the_same_time() -> None:
    class Meeting(Ranking):
        def retrieve(self, queries: list[str], top_k: int) -> list[list[Passage]]:
            barrier.wait(timeout=10)
            return super().retrieve(queries, top_k)

    barrier = threading.Barrier(3)
    with FusionRetriever([Meeting("a"), Meeting("a"), Meeting("a")]) as retriever:
        assert len(retriever.retrieve(["q"], 1)[0]) == 1


def test_different_passages_under_one_id_are_refused() -> None:
    fused = FusionRetriever([Ranking("ab"), Ranking("b", text="other")])
    with fused as retriever, pytest.raises(ConfigurationError, match=r"two texts of the id 'b'.*same corpus"):
        retriever.retrieve(["q"], 2)


def test_one_that_fails_makes_the_whole_fail() -> None:
    with FusionRetriever([Ranking("ab"), Broken("retrieve")]) as retriever, pytest.raises(RetrievalError, match="disk"):
        retriever.retrieve(["q"], 2)


def test_they_open_and_close_together() -> None:
    events: list[str] = []
    retriever = FusionRetriever([Ranking("a", events), Ranking("b", events)])
    with pytest.raises(RetrievalError, match="open"):
        retriever.retrieve(["q"], 1)
    for _ in range(2):
        retriever.open()
        retriever.open()
        assert retriever.retrieve(["q"], 1)
        retriever.close()
        retriever.close()
    assert events == ["open a", "open b", "close b", "close a"] * 2


def test_when_one_cannot_open_none_stays_open() -> None:
    events: list[str] = []
    with pytest.raises(RetrievalError, match="disk"):
        FusionRetriever([Ranking("a", events), Broken("open")]).open()
    assert events == ["open a", "close a"]


def test_the_description_has_all_that_decides() -> None:
    one, two = Ranking("a"), Ranking("b")
    described = FusionRetriever([one, two], k=7, depth=3).describe()
    assert described == {
        "retriever": "fusion",
        "k": 7,
        "depth": 3,
        "retrievers": [one.describe(), two.describe()],
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"retrievers": [Ranking("a")]}, "at least two.*got 1"),
        ({"k": -1}, "`retriever.k`"),
        ({"depth": 0}, "`retriever.depth`"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        FusionRetriever(**({"retrievers": [Ranking("a"), Ranking("b")]} | settings))


@pytest.mark.slow
def test_the_hybrid_one_is_bm25_and_chroma_over_one_corpus(write_corpus: Callable[..., Path], tmp_path: Path) -> None:
    corpus = str(write_corpus())
    sparse, dense = BM25Retriever(str(tmp_path / "a"), corpus), ChromaRetriever(str(tmp_path / "b"), corpus)
    with HybridRetriever(str(tmp_path / "index"), corpus) as hybrid, FusionRetriever([sparse, dense]) as fused:
        assert hybrid.retrieve(["capital of Japan"], 5) == fused.retrieve(["capital of Japan"], 5)
        assert hybrid.describe() == fused.describe()

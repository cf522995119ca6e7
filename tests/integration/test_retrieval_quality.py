"""Retrievers on questions with known gold passages; ``tools/retrieval_quality.py`` prints the whole table."""

import json
from pathlib import Path

import pytest

from llds.retrieval import ChromaRetriever, MiniLMEmbedder, Retriever
from tests.unit.retrieval.embedders.test_transformer import needs_minilm
from tools.retrieval_quality import DATA, GoldSet, read_gold_set, retriever_makers

CORPUS = DATA / "hipporag_hotpotqa_train_corpus.json"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data/questions"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gold")


@pytest.fixture(scope="module")
def gold() -> GoldSet:
    return read_gold_set(DATA / "hipporag_hotpotqa_train.json", CORPUS)


def recall(retriever: Retriever, gold: GoldSet) -> float:
    """Mean recall@3 of gold titles."""
    with retriever:
        recalls = gold.recalls(retriever.retrieve(gold.queries, 3))
    return sum(recalls) / len(recalls)


# The floors are figures of a prototype on 200 such questions among 2,870 passages.
@pytest.mark.parametrize(("name", "floor"), [("bm25", 0.66), ("wordllama", 0.585)])
def test_gold_passages_are_found(gold: GoldSet, folder: Path, name: str, floor: float) -> None:
    assert recall(retriever_makers(str(CORPUS), folder)[name](), gold) >= floor


@needs_minilm
@pytest.mark.nightly
def test_minilm_finds_gold_passages_among_a_hundred(gold: GoldSet, folder: Path) -> None:
    titles = gold.titles[:20]  # all 994 passages take it a minute or two
    wanted = set().union(*titles)
    pages = json.loads(CORPUS.read_text(encoding="utf-8"))
    kept = {title: text for n, (title, text) in enumerate(pages.items()) if title in wanted or n % 16 == 0}
    corpus = folder / "small.json"
    corpus.write_text(json.dumps(kept), encoding="utf-8")
    retriever = ChromaRetriever(str(folder / "small-minilm"), str(corpus), embedder=MiniLMEmbedder())
    assert len(kept) > 90
    assert recall(retriever, GoldSet(gold.queries[:20], titles)) >= 0.8

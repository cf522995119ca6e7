"""A small real corpus, as the file a user would bring, and the real embedder."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llds.retrieval import ChromaRetriever, WordLlamaEmbedder

FACTS = [
    ("Paris", "Paris is the capital and largest city of France, on the river Seine."),
    ("Berlin", "Berlin is the capital of Germany and its largest city by population."),
    ("Mont Blanc", "Mont Blanc is the highest mountain of the Alps, on the border of France and Italy."),
    ("Yen", "The yen is the official currency of Japan."),
    ("Mount Fuji", "Mount Fuji is an active volcano on Honshu and the highest mountain of Japan."),
    ("Danube", "The Danube flows through ten countries and ends in the Black Sea."),
    ("Ottawa", "Ottawa is the capital city of Canada, in the province of Ontario."),
    ("Rand", "The rand is the currency of South Africa."),
    ("Lake Victoria", "Lake Victoria is the largest lake of Africa by area."),
    ("Lima", "Lima is the capital of Peru, a city on the coast of the Pacific Ocean."),
    ("Canberra", "Canberra is the capital of Australia, chosen as a compromise between Sydney and Melbourne."),
    ("Rupee", "The Indian rupee is issued by the Reserve Bank of India."),
]


@pytest.fixture(scope="session")
def embedder() -> WordLlamaEmbedder:
    return WordLlamaEmbedder()


def write_facts(path: Path, rows: list[tuple[str, str]] = FACTS) -> Path:
    lines = [
        json.dumps({"id": f"doc-{number}", "contents": f'"{title}"\n{text}'})
        for number, (title, text) in enumerate(rows)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def open_retriever(tmp_path_factory: pytest.TempPathFactory, embedder: WordLlamaEmbedder) -> Iterator[ChromaRetriever]:
    """An open one over the facts, for tests that only ask."""
    folder = tmp_path_factory.mktemp("facts")
    corpus = write_facts(folder / "corpus.jsonl")
    with ChromaRetriever(str(folder / "index"), str(corpus), embedder=embedder) as retriever:
        yield retriever


@pytest.fixture
def write_corpus(tmp_path: Path) -> Callable[..., Path]:
    def write(rows: list[tuple[str, str]] = FACTS, name: str = "corpus.jsonl") -> Path:
        return write_facts(tmp_path / name, rows)

    return write


@pytest.fixture
def make_retriever(
    tmp_path: Path, write_corpus: Callable[..., Path], embedder: WordLlamaEmbedder
) -> Callable[..., ChromaRetriever]:
    """Makes retrievers on one index folder and one corpus; closes them after the test."""
    made: list[ChromaRetriever] = []
    write_corpus()

    def make(**settings: object) -> ChromaRetriever:
        arguments = {"path": str(tmp_path / "index"), "corpus": str(tmp_path / "corpus.jsonl"), "embedder": embedder}
        made.append(ChromaRetriever(**{**arguments, **settings}))  # type: ignore[arg-type]
        return made[-1]

    yield make  # type: ignore[misc]
    for retriever in made:
        retriever.close()

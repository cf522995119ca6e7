"""How many of the passages that answer a question does each retriever find? Measured against gold titles.

Run from the repository root; the first run embeds the passages (MiniLM: a few minutes on a CPU), later ones reuse the
indices in ``--folder``::

    python tools/retrieval_quality.py
    python tools/retrieval_quality.py --retrievers bm25 minilm --top-k 5

By default: 100 HotpotQA questions whose two supporting pages are all among 994 passages (HippoRAG's sample, MIT). The
question itself is the query. Recall of a question is the share of its gold titles among the titles of the top k
passages; the table has the mean over questions with its 95% interval. *Over HTTP* is the same retriever behind
``llds serve-retriever``'s application and our client, which must find the very same passages.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llds.evaluation.intervals import mean_estimate
from llds.retrieval import (
    BM25Retriever,
    ChromaRetriever,
    FusionRetriever,
    HTTPRetriever,
    MiniLMEmbedder,
    Passage,
    Retriever,
)
from llds.retrieval.corpus import check_corpus
from llds.retrieval.server import retrieval_app, serving

DATA = Path(__file__).parents[2] / "shared" / "data" / "questions"


@dataclass(frozen=True)
class GoldSet:
    """Questions with the titles that answer them.

    Attributes:
        queries: The questions.
        titles: Gold titles of each.
    """

    queries: list[str]
    titles: list[set[str]]

    def recalls(self, results: list[list[Passage]]) -> list[float]:
        """Share of the gold titles that was found, of each question."""
        return [
            len(gold & {passage.title for passage in passages}) / len(gold)
            for gold, passages in zip(self.titles, results, strict=True)
        ]


def read_gold_set(questions: Path, corpus: Path) -> GoldSet:
    """Read HotpotQA's questions, each with the titles of its supporting facts, all of which are in the corpus."""
    rows = json.loads(questions.read_text(encoding="utf-8"))
    titles = [{title for title, _ in row["supporting_facts"]} for row in rows]
    missing = sorted(set().union(*titles) - {passage.title for passage in check_corpus(corpus)})
    if missing:
        raise SystemExit(f"Expected every gold title in the corpus, got none for {missing[:3]}.")
    return GoldSet([row["question"] for row in rows], titles)


def retriever_makers(corpus: str, folder: Path) -> dict[str, Callable[[], Retriever]]:
    """What is measured, by name."""

    def bm25() -> Retriever:
        return BM25Retriever(str(folder / "bm25"), corpus)

    def wordllama() -> Retriever:
        return ChromaRetriever(str(folder / "wordllama"), corpus)

    def minilm() -> Retriever:
        return ChromaRetriever(str(folder / "minilm"), corpus, embedder=MiniLMEmbedder())

    return {
        "bm25": bm25,
        "wordllama": wordllama,
        "minilm": minilm,
        "bm25+wordllama": lambda: FusionRetriever([bm25(), wordllama()]),
        "bm25+minilm": lambda: FusionRetriever([bm25(), minilm()]),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--questions", type=Path, default=DATA / "hipporag_hotpotqa_train.json")
    parser.add_argument("--corpus", type=Path, default=DATA / "hipporag_hotpotqa_train_corpus.json")
    parser.add_argument("--folder", type=Path, default=Path("runs/retrieval-quality"))
    parser.add_argument("--top-k", type=int, default=3)
    parser.add_argument("--retrievers", nargs="+", default=None)
    settings = parser.parse_args()
    settings.folder.mkdir(parents=True, exist_ok=True)
    gold = read_gold_set(settings.questions, settings.corpus)
    makers = retriever_makers(str(settings.corpus), settings.folder)
    if unknown := set(settings.retrievers or ()) - makers.keys():
        raise SystemExit(f"Expected retrievers among {', '.join(makers)}, got {', '.join(sorted(unknown))}.")
    print(f"| retriever | recall@{settings.top_k} of gold titles | 95% interval | over HTTP | n |")
    print("| --- | --- | --- | --- | --- |")
    for name in settings.retrievers or makers:
        with makers[name]() as retriever:
            direct = retriever.retrieve(gold.queries, settings.top_k)
            with serving(retrieval_app(retriever)) as url, HTTPRetriever(url, timeout_s=300) as client:
                remote = client.retrieve(gold.queries, settings.top_k)
        found = mean_estimate(gold.recalls(direct))
        over_http = "the same passages" if remote == direct else f"{mean_estimate(gold.recalls(remote)).value:.3f}"
        print(
            f"| {name} | {found.value:.3f} | {found.low:.3f} - {found.high:.3f} | {over_http} | {len(gold.queries)} |"
        )


if __name__ == "__main__":
    main()

"""How much do the two numbers of reciprocal rank fusion matter? Measured on questions that no other figure uses.

Run from the repository root; the first run builds the two indices in ``--folder``::

    python tools/bench/retrieval/fusion.py

BM25 and wordllama find 100 passages a question; their rankings are fused with every ``k`` and ``depth``. A question
counts as found if one of the first three passages holds a gold answer, as whole words after normalization. Questions
to be answered by yes or no, and those of which neither ranking holds an answer, are left out.
"""

import argparse
from itertools import chain
from pathlib import Path

from llds.data import DataSource, read_prompts
from llds.evaluation.intervals import mean_estimate
from llds.retrieval import BM25Retriever, ChromaRetriever, Passage
from llds.retrieval.corpus import passage_content
from llds.retrieval.fusion import fuse
from llds.rewards import normalize_answer
from llds.types import Prompt

DATA = Path(__file__).parents[4] / "shared" / "data"
QUESTIONS = [DATA / "questions" / f"r1searcher_{name}_500.jsonl" for name in ("hotpotqa", "2wiki", "musique")]
CONSTANTS, DEPTHS = (0, 2, 10, 60, 200), (3, 5, 10, 20, 100)
FOUND, TOP_K = 100, 3


def holds_answer(passage: Passage, prompt: Prompt) -> bool:
    """Whether a gold answer stands in a passage."""
    text = f" {normalize_answer(passage_content(passage))} "
    return any(f" {normalize_answer(gold)} " in text for gold in prompt.golden_answers)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--questions", type=Path, nargs="+", default=QUESTIONS)
    parser.add_argument("--corpus", type=Path, default=DATA / "corpus" / "wiki40k.jsonl.gz")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench-fusion"))
    settings = parser.parse_args()
    prompts = [prompt for path in settings.questions for prompt in read_prompts(DataSource(str(path)))]
    prompts = [one for one in prompts if not {"yes", "no"} & {gold.lower() for gold in one.golden_answers}]
    queries = [prompt.question for prompt in prompts]
    with BM25Retriever(f"{settings.folder}/bm25", str(settings.corpus)) as sparse:
        rankings = [sparse.retrieve(queries, FOUND)]
    with ChromaRetriever(f"{settings.folder}/chroma", str(settings.corpus)) as dense:
        rankings.append(dense.retrieve(queries, FOUND))
    right = [
        {passage.document_id for passage in chain(*both) if holds_answer(passage, prompt)}
        for prompt, *both in zip(prompts, *rankings, strict=True)
    ]
    cases = [(gold, both) for gold, *both in zip(right, *rankings, strict=True) if gold]
    print(f"{len(cases)} of {len(prompts)} questions; share with an answer in the first {TOP_K}, by depth and k")
    print("| depth | " + " | ".join(f"k {k}" for k in CONSTANTS) + " |\n" + "| --- " * (len(CONSTANTS) + 1) + "|")
    for depth in DEPTHS:
        shares = [share(cases, depth, k) for k in CONSTANTS]
        print(f"| {depth} | " + " | ".join(f"{one:.3f}" for one in shares) + " |")
    best = mean_estimate([float(is_found(case, 10, 60)) for case in cases])
    print(f"depth 10, k 60: {best.value:.3f}, 95% interval {best.low:.3f} - {best.high:.3f}")


Case = tuple[set[str], list[list[Passage]]]
"""Ids of the passages with an answer, and the rankings."""


def is_found(case: Case, depth: int, k: int) -> bool:
    """Whether the fused ranking has an answer at its top."""
    gold, rankings = case
    return any(one.document_id in gold for one in fuse([ranking[:depth] for ranking in rankings], k)[:TOP_K])


def share(cases: list[Case], depth: int, k: int) -> float:
    """Share of the questions that are found."""
    return sum(is_found(case, depth, k) for case in cases) / len(cases)


if __name__ == "__main__":
    main()

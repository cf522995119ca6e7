"""A corpus of a few real facts, for a real Chroma index that takes a moment to build."""

import json
from pathlib import Path

import pytest

from llds.paths import resolve_path

QUESTIONS = 24


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Passages that support the first training questions, and some that support none."""
    lines = resolve_path("llds:quickstart/train.jsonl").read_text().splitlines()[:QUESTIONS]
    wanted = {name for line in lines for name in json.loads(line)["supporting_ids"]}
    passages = resolve_path("llds:quickstart/corpus.jsonl").read_text().splitlines()
    kept = [line for number, line in enumerate(passages) if json.loads(line)["id"] in wanted or number % 40 == 0]
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    path.write_text("\n".join(kept) + "\n")
    return path

"""The quickstart's corpus and questions: complete, consistent, and split by country."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from llds.retrieval.corpus import passage_content, read_corpus
from llds.retrieval.embedders.wordllama import WordLlamaEmbedder

ASSETS = Path(__file__).parents[3] / "llds" / "quickstart"
SPLITS = ("train", "validation", "test")


def read(name: str) -> list[dict]:
    return [json.loads(line) for line in (ASSETS / name).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def passages() -> dict[str, str]:
    return {row["id"]: row["contents"] for row in read("corpus.jsonl")}


@pytest.fixture(scope="module")
def questions() -> dict[str, list[dict]]:
    return {split: read(f"{split}.jsonl") for split in SPLITS}


def country_of(row: dict) -> str:
    return row["supporting_ids"][-1].split("-")[0]


def good_query(passage_id: str, passages: dict[str, str]) -> str:
    title = passages[passage_id].split("\n")[0].strip('"')
    field = passage_id.split("-", 1)[1].replace("_", " ")
    return title if field.startswith("place") else f"{field} of {title}"


def test_the_corpus_has_unique_ids_and_passages_in_search_r1_format(passages):
    assert len(passages) == len(read("corpus.jsonl")) > 7000
    for contents in passages.values():
        title, text = contents.split("\n")
        assert len(title) > 2
        assert title[0] == title[-1] == '"'
        assert text.endswith(".")


@pytest.mark.parametrize("split", SPLITS)
def test_the_last_supporting_passage_states_the_gold_answer(questions, passages, split):
    for row in questions[split]:
        (answer,) = row["golden_answers"]
        assert passages[row["supporting_ids"][-1]].endswith(f" is {answer}."), row


@pytest.mark.parametrize("split", SPLITS)
def test_a_question_holds_its_entity_but_never_its_answer(questions, passages, split):
    for row in questions[split]:
        entity = passages[row["supporting_ids"][0]].split("\n")[0].strip('"')
        assert entity in row["question"]
        assert f" {row['golden_answers'][0]}?" not in row["question"]


@pytest.mark.parametrize("split", SPLITS)
def test_a_two_hop_question_leads_through_its_place_to_a_country_it_does_not_name(questions, passages, split):
    two_hop = [row for row in questions[split] if row["data_source"] == "two_hop"]
    for row in two_hop:
        place, fact = (passages[passage_id] for passage_id in row["supporting_ids"])
        country = fact.split("\n")[0].strip('"')
        assert place.endswith(f" in {country}.")
        assert country not in row["question"]
    assert all(len(row["supporting_ids"]) == 1 for row in questions[split] if row["data_source"] == "one_hop")


def test_no_country_is_in_two_splits(questions):
    countries = {split: {country_of(row) for row in rows} for split, rows in questions.items()}
    assert not countries["train"] & countries["test"]
    assert not countries["train"] & countries["validation"]
    assert not countries["validation"] & countries["test"]


def test_splits_are_large_enough_and_half_of_each_is_two_hop(questions):
    counts = {split: Counter(row["data_source"] for row in rows) for split, rows in questions.items()}
    assert counts["test"] == {"one_hop": 300, "two_hop": 300}
    assert counts["validation"] == {"one_hop": 100, "two_hop": 100}
    assert counts["train"]["two_hop"] == counts["train"]["one_hop"] >= 1000


def test_ids_and_questions_are_unique(questions):
    rows = [row for split in SPLITS for row in questions[split]]
    assert len({row["id"] for row in rows}) == len({row["question"] for row in rows}) == len(rows)


def test_a_place_name_belongs_to_one_country(passages):
    titles = [contents.split("\n")[0].lower() for key, contents in passages.items() if "-place-" in key]
    assert len(set(titles)) == len(titles)


@pytest.mark.slow
def test_good_queries_find_all_passages_of_nearly_every_test_question(questions, passages):
    ids, embedder = list(passages), WordLlamaEmbedder()
    vectors = embedder.embed([passage_content(passage) for passage in read_corpus(ASSETS / "corpus.jsonl")])
    hops = [(row["id"], passage_id) for row in questions["test"] for passage_id in row["supporting_ids"]]
    queries = [good_query(passage_id, passages) for _, passage_id in hops]
    best = np.argsort(-(embedder.embed(queries) @ vectors.T), axis=1)[:, :2]
    misses = {row for (row, gold), found in zip(hops, best, strict=True) if gold not in [ids[i] for i in found]}
    assert 1 - len(misses) / len(questions["test"]) > 0.98

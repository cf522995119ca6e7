"""Write the quickstart's corpus and questions to `llds/quickstart/`: the same bytes on every run.

Usage: ``python tools/quickstart/make_world.py`` (needs `pyworldatlas==0.10.0` from the `dev` extra; seconds).

Countries are split into three disjoint sets (train, validation, test), so a test question is about a country that no
training question mentions. The corpus holds all of them: a search agent has to look them up.
"""

import argparse
import json
import random
from pathlib import Path

from world import (
    FIELDS,
    Country,
    fact_id,
    one_hop_question,
    passages,
    place_id,
    read_countries,
    two_hop_question,
)

SEED = 20261124
NUM_COUNTRIES = {"test": 50, "validation": 24}
"""The other countries are for training."""

NUM_QUESTIONS = {"train": 1200, "validation": 100, "test": 300}
"""Questions of each kind (one-hop, two-hop), or fewer where the facts run out."""

ASSETS = Path(__file__).parents[2] / "llds" / "quickstart"
Row = dict[str, object]


def split_countries(countries: list[Country]) -> dict[str, list[Country]]:
    """Shuffle and deal out: test, validation, and the rest for training."""
    shuffled = random.Random(SEED).sample(countries, len(countries))  # noqa: S311 (not cryptography)
    num_test, num_validation = NUM_COUNTRIES["test"], NUM_COUNTRIES["validation"]
    return {
        "test": shuffled[:num_test],
        "validation": shuffled[num_test : num_test + num_validation],
        "train": shuffled[num_test + num_validation :],
    }


def questions(split: str, countries: list[Country]) -> list[Row]:
    """The questions of a split, one-hop and two-hop mixed."""
    rng = random.Random(f"{SEED}-{split}")  # noqa: S311 (not cryptography)
    one_hop = [_one_hop(country, field) for country in countries for field in country.facts]
    two_hop = _two_hop_by_turns(countries, rng, NUM_QUESTIONS[split])
    rows = rng.sample(one_hop, min(NUM_QUESTIONS[split], len(one_hop))) + two_hop
    rng.shuffle(rows)
    return [{"id": f"{split}-{number:04d}"} | row for number, row in enumerate(rows)]


def _two_hop_by_turns(countries: list[Country], rng: random.Random, num_questions: int) -> list[Row]:
    # One question per country and round, so that the countries with hundreds of cities do not fill the split.
    decks = []
    for country in countries:
        pairs = [(field, place) for place in country.bridges for field in FIELDS if field in country.facts]
        if pairs:
            decks.append((country, rng.sample(pairs, len(pairs))))
    rows: list[Row] = []
    while len(rows) < num_questions and any(deck for _, deck in decks):
        rows += [_two_hop(country, *deck.pop()) for country, deck in decks if deck]
    return rows[:num_questions]


def _one_hop(country: Country, field: str) -> Row:
    return {
        "question": one_hop_question(field, country.name),
        "golden_answers": [country.facts[field]],
        "data_source": "one_hop",
        "supporting_ids": [fact_id(country, field)],
    }


def _two_hop(country: Country, field: str, place: str) -> Row:
    return {
        "question": two_hop_question(field, place),
        "golden_answers": [country.facts[field]],
        "data_source": "two_hop",
        "supporting_ids": [place_id(country, place), fact_id(country, field)],
    }


def write_jsonl(path: Path, rows: list[Row]) -> None:
    """One JSON object per line, readable characters."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    """Write the four files and say how many rows each has."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ASSETS, help="folder to write to")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    countries = read_countries()
    corpus: list[Row] = [{"id": row.passage_id, "contents": row.contents} for row in passages(countries)]
    write_jsonl(output / "corpus.jsonl", corpus)
    print(f"corpus: {len(corpus)} passages about {len(countries)} countries")
    for split, members in split_countries(countries).items():
        rows = questions(split, members)
        write_jsonl(output / f"{split}.jsonl", rows)
        num_two_hop = sum(row["data_source"] == "two_hop" for row in rows)
        print(f"{split}: {len(rows)} questions ({num_two_hop} two-hop) about {len(members)} countries")


if __name__ == "__main__":
    main()

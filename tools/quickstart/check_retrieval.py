"""How often good queries find all passages that a question needs, with the quickstart's embedder and exact search.

Usage: ``python tools/quickstart/check_retrieval.py``: share of questions whose passages are all among the first 1, 2
and 3 results, when the query is the name of the place (first hop) or "<field> of <country>" (last hop). It bounds what
any policy that asks such queries can reach.
"""

import json
from collections import defaultdict

from make_world import ASSETS
from retrieval import ExactSearch

DEPTH = 3


def good_query(search: ExactSearch, passage_id: str) -> str:
    """The query that a good agent asks for a passage."""
    title = search.passages[search.ids.index(passage_id)].title
    field = passage_id.split("-", 1)[1].replace("_", " ")
    return title if field.startswith("place") else f"{field} of {title}"


def ranks(search: ExactSearch, row: dict[str, list[str]]) -> list[int]:
    """Rank of each supporting passage of a question, from 0; `DEPTH` where it was not found."""
    found = search.search([good_query(search, passage_id) for passage_id in row["supporting_ids"]])
    ids = [[search.ids[place] for place in places] for places in found]
    return [
        names.index(gold) if gold in names else DEPTH for names, gold in zip(ids, row["supporting_ids"], strict=True)
    ]


def main() -> None:
    """Print one line per split and kind of question."""
    search = ExactSearch(ASSETS / "corpus.jsonl", top_k=DEPTH)
    for split in ("train", "validation", "test"):
        worst: dict[str, list[int]] = defaultdict(list)
        for line in (ASSETS / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            worst[row["data_source"]].append(max(ranks(search, row)))
        for kind, depths in sorted(worst.items()):
            shares = [sum(depth < k for depth in depths) / len(depths) for k in range(1, DEPTH + 1)]
            print(f"{split} {kind} (n {len(depths)}): " + ", ".join(f"{share:.1%}" for share in shares))


if __name__ == "__main__":
    main()

"""Exact search, and how a build tells of its progress."""

import re
import time

import numpy as np

from llds.retrieval.embedders.base import unit_rows
from llds.retrieval.index import progress as index_progress
from llds.retrieval.index.exact import ExactSearch
from llds.retrieval.index.progress import progress_bar


def random_units(rows: int, seed: int) -> np.ndarray:
    return unit_rows(np.random.default_rng(seed).normal(size=(rows, 64)).astype(np.float32))


def test_hits_are_those_of_sorting_every_score():
    vectors, queries = random_units(500, seed=0), random_units(20, seed=1)
    results = ExactSearch([f"{row:03}" for row in range(500)], vectors).search(queries, top_k=5)
    scores = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    for row, hits in enumerate(results):
        expected = np.argsort(-scores[row])[:5]
        assert [int(hit.document_id) for hit in hits] == expected.tolist()
        np.testing.assert_allclose([hit.score for hit in hits], scores[row][expected], atol=1e-12)


def test_equal_passages_are_ordered_by_id_and_the_cut_does_not_depend_on_their_position():
    same = random_units(1, seed=2).repeat(30, axis=0)
    ids = [f"{row:02}" for row in range(30)][::-1]
    [hits] = ExactSearch(ids, same).search(same[:1], top_k=3)
    assert [hit.document_id for hit in hits] == ["00", "01", "02"]


def test_a_query_alone_gets_exactly_what_it_gets_in_a_batch():
    vectors, queries = random_units(700, seed=3), random_units(33, seed=4)
    search = ExactSearch([str(row) for row in range(700)], vectors)
    assert search.search(queries, 3) == [search.search(queries[row : row + 1], 3)[0] for row in range(33)]


def test_fewer_passages_than_asked_for_are_all_returned():
    [hits] = ExactSearch(["a", "b"], random_units(2, seed=5)).search(random_units(1, seed=6), top_k=3)
    assert len(hits) == 2
    assert hits[0].score >= hits[1].score


def test_rate_and_time_left_do_not_count_what_a_killed_build_had_done(capsys, monkeypatch):
    monkeypatch.setattr(index_progress, "_IN_A_FILE_EVERY_S", 0.01)
    with progress_bar(100_000) as advance:
        advance(90_000)
        time.sleep(0.1)
        advance(90_010)
    *_, last = capsys.readouterr().err.split("\r")
    [rate] = re.findall(r"90010/100000 .* ([\d.]+) passages/s", last)
    assert 0 < float(rate) <= 100  # 10 in at least 0.1 s


def test_a_quick_build_shows_no_bar(capsys):
    with progress_bar(10) as advance:
        advance(0)
        advance(10)
    assert capsys.readouterr().err == ""

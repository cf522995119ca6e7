"""The Chroma retriever on real collections: answers, reproducibility, and every index that must not be trusted."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from llds.errors import ConfigurationError, DataError, RetrievalError
from llds.retrieval import ChromaRetriever, Embedder, WordLlamaEmbedder
from llds.retrieval.corpus import passage_content, read_corpus
from llds.retrieval.index import folder
from llds.retrieval.index.exact import ExactSearch

REPOSITORY = Path(__file__).parents[3]
SHARED_CORPUS = REPOSITORY.parent / "shared/data/corpus/wiki40k.jsonl.gz"
HNSW = {"exact_up_to": 0}
SEARCHES = pytest.mark.parametrize(
    "search", [pytest.param({}, id="exact"), pytest.param(HNSW, id="hnsw", marks=pytest.mark.slow)]
)
PLACES = [(f"Place {n}", f"Place {n} lies {n * 37 % 100} km north of place {n * 61 % 977}.") for n in range(977)]
QUERIES = ["capital of France", "highest mountain of Japan", "What is the currency of South Africa?", "a river"]


class ReversedEmbedder(Embedder):
    """Another embedder of the same dimension, whose vectors fit no index of the first."""

    def __init__(self, fingerprint: str = "reversed"):
        self._inner = WordLlamaEmbedder()
        self._fingerprint = fingerprint

    @property
    def dimension(self) -> int:
        """As the real one."""
        return self._inner.dimension

    @property
    def fingerprint(self) -> str:
        """As set."""
        return self._fingerprint

    def embed(self, texts):
        """The real vectors, back to front."""
        return self._inner.embed(texts)[:, ::-1].copy()


def answers(retriever, queries=QUERIES, top_k=3):
    return [[(passage.document_id, passage.score) for passage in row] for row in retriever.retrieve(queries, top_k)]


def hnsw_folder(index: Path) -> Path:
    [folder] = [path for path in index.iterdir() if path.is_dir()]
    return folder


# Answers


@SEARCHES
def test_queries_find_the_passages_that_answer_them(make_retriever, search):
    with make_retriever(**search) as retriever:
        found = retriever.retrieve(QUERIES, top_k=2)
    assert [row[0].title for row in found[:3]] == ["Paris", "Mount Fuji", "Rand"]
    assert found[0][0].text == "Paris is the capital and largest city of France, on the river Seine."
    assert all(len(row) == 2 and row[0].score >= row[1].score for row in found)


@SEARCHES
def test_scores_are_cosine_similarities(make_retriever, embedder, search):
    with make_retriever(**search) as retriever:
        [[best]] = retriever.retrieve(["capital of France"], top_k=1)
    query, passage = embedder.embed(["capital of France", passage_content(best)])
    assert best.score == pytest.approx(float(query @ passage), abs=1e-6)


@SEARCHES
def test_both_searches_agree_with_sorting_every_score(make_retriever, embedder, tmp_path, search):
    passages = list(read_corpus(tmp_path / "corpus.jsonl"))
    vectors = embedder.embed_passages([passage_content(passage) for passage in passages])
    expected = ExactSearch([passage.document_id for passage in passages], vectors).search(embedder.embed(QUERIES), 3)
    with make_retriever(**search) as retriever:
        found = answers(retriever)
    assert [[i for i, _ in row] for row in found] == [[hit.document_id for hit in row] for row in expected]


@SEARCHES
def test_equal_passages_are_ordered_by_id(make_retriever, write_corpus, search):
    write_corpus([("Paris", "The capital of France.")] * 6 + [("Lima", "The capital of Peru.")])
    with make_retriever(**search) as retriever:
        [row] = answers(retriever, ["capital of France"], top_k=3)
    assert [document_id for document_id, _ in row] == ["doc-0", "doc-1", "doc-2"]


@SEARCHES
def test_a_query_gets_the_same_answer_alone_in_a_batch_and_in_threads(make_retriever, search):
    queries = [f"{query} {number}" for query in QUERIES for number in range(40)]  # more than one batch
    with make_retriever(**search) as retriever:
        together = answers(retriever, queries)
        with ThreadPoolExecutor(4) as pool:
            alone = list(pool.map(lambda query: answers(retriever, [query])[0], queries))
    assert alone == together


@SEARCHES
def test_a_corpus_smaller_than_top_k_is_returned_whole(make_retriever, write_corpus, search):
    write_corpus([("Paris", "The capital of France."), ("Lima", "The capital of Peru.")])
    with make_retriever(**search) as retriever:
        assert [len(row) for row in retriever.retrieve(["capital", ""], top_k=5)] == [2, 2]
        assert retriever.retrieve([], top_k=5) == []


@SEARCHES
def test_titles_texts_and_ids_come_back_as_they_were(make_retriever, tmp_path, search):
    contents = '"Ærø "quoted" 東京"\nText with \x00, a tab\t,\nnew lines and 🜁.'
    row = {"id": "a/b c\n'", "contents": contents}
    (tmp_path / "corpus.jsonl").write_text(json.dumps(row))
    with make_retriever(**search) as retriever:
        [[passage]] = retriever.retrieve(["tab"], top_k=1)
    assert (passage.document_id, f'"{passage.title}"\n{passage.text}') == (row["id"], contents)


def test_a_closed_retriever_and_a_top_k_of_zero_are_refused(make_retriever):
    retriever = make_retriever()
    with pytest.raises(RetrievalError, match="Expected an open retriever"):
        retriever.retrieve(["x"], 1)
    with pytest.raises(RetrievalError, match="Expected an open retriever"):
        retriever.describe()
    with retriever, pytest.raises(ConfigurationError, match="Expected `top_k` >= 1, got 0"):
        retriever.retrieve(["x"], 0)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigurationError, match=r"Expected `retriever.ef_search` >= 1, got 0"):
        ChromaRetriever("index", "corpus.jsonl", ef_search=0)


# Reproducibility


@pytest.mark.slow
@SEARCHES
def test_an_index_answers_alike_after_every_reopening(make_retriever, write_corpus, search):
    write_corpus(
        [(f"Place {n}", f"Place {n} lies {n * 37 % 100} km north of place {n * 61 % 977}.") for n in range(977)]
    )
    queries = [f"What lies {number} km north of place {number * 7}?" for number in range(60)]
    retriever = make_retriever(ef_search=5, **search)  # low: an approximate search shows every change of its graph
    seen = []
    for _ in range(3):
        with retriever:
            seen.append(answers(retriever, queries))
    assert seen[0] == seen[1] == seen[2]


@pytest.mark.slow
def test_two_builds_of_one_corpus_answer_alike(make_retriever, write_corpus, tmp_path):
    write_corpus(
        [(f"Place {n}", f"Place {n} lies {n * 37 % 100} km north of place {n * 61 % 977}.") for n in range(977)]
    )
    queries = [f"What lies {number} km north of place {number * 7}?" for number in range(60)]
    with make_retriever(path=str(tmp_path / "a")) as first, make_retriever(path=str(tmp_path / "b")) as second:
        assert answers(first, queries) == answers(second, queries)
        assert first.fingerprint == second.fingerprint


def test_the_fingerprint_tells_corpora_and_searches_apart_but_not_paths(make_retriever, write_corpus, tmp_path):
    with make_retriever() as exact:
        first = exact.fingerprint
        assert exact.describe()["rows"] == 12
        assert str(tmp_path) not in json.dumps(exact.describe())
    with make_retriever(**HNSW) as approximate:
        assert approximate.fingerprint != first
    other = write_corpus([("Paris", "A city.")], name="other.jsonl")
    with make_retriever(path=str(tmp_path / "other"), corpus=str(other)) as retriever:
        assert retriever.fingerprint != first


# Opening and closing


def test_an_index_is_built_once_and_opened_afterwards(make_retriever, tmp_path):
    retriever = make_retriever()
    with retriever:
        built = (tmp_path / "index/manifest.json").stat().st_mtime_ns
        before = answers(retriever)
        retriever.open()  # a second time: nothing happens
    retriever.close()  # a second time: nothing happens
    with retriever:
        assert answers(retriever) == before
    assert (tmp_path / "index/manifest.json").stat().st_mtime_ns == built


@SEARCHES
def test_an_index_in_a_folder_that_cannot_be_written_is_opened_for_reading(
    make_retriever, tmp_path, monkeypatch, search
):
    with make_retriever(**search) as retriever:
        before = answers(retriever)
    (tmp_path / ".index.lock").unlink()
    files = {one: one.read_bytes() for one in (tmp_path / "index").rglob("*") if one.is_file()}
    monkeypatch.setattr(folder.os, "access", lambda path, mode: not str(path).startswith(str(tmp_path)))
    with make_retriever(**search) as retriever:
        assert answers(retriever) == before
    assert {one: one.read_bytes() for one in tmp_path.rglob("*") if one.is_file() and one in files} == files
    assert {one for one in tmp_path.rglob("*") if one.is_file()} == {*files, tmp_path / "corpus.jsonl"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write every folder")
def test_permissions_that_forbid_writing_do_not_forbid_reading(make_retriever, tmp_path):
    with make_retriever() as retriever:
        before = answers(retriever)
    (tmp_path / "index").chmod(0o555)
    tmp_path.chmod(0o555)
    try:
        with make_retriever() as retriever:
            assert answers(retriever) == before
    finally:
        tmp_path.chmod(0o755)
        (tmp_path / "index").chmod(0o755)


def test_two_retrievers_share_an_index_and_closing_one_leaves_the_other_open(make_retriever):
    first, second = make_retriever(), make_retriever()
    first.open()
    second.open()
    before = answers(first)
    second.close()
    assert answers(first) == before


@pytest.mark.slow
def test_a_deleted_index_is_built_anew_in_the_same_process(make_retriever, write_corpus, tmp_path):
    with make_retriever():
        pass
    shutil.rmtree(tmp_path / "index")
    write_corpus([("Paris", "A city.")])
    with make_retriever() as retriever:
        assert retriever.describe()["rows"] == 1


def test_an_empty_folder_in_its_place_is_used(make_retriever, tmp_path):
    (tmp_path / "index").mkdir()
    with make_retriever() as retriever:
        assert len(retriever.retrieve(["x"], 3)[0]) == 3


def test_importing_retrieval_does_not_import_chromadb_or_tokenizers():
    code = "import sys, llds.retrieval; print([m for m in ('chromadb', 'tokenizers', 'torch') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


# Indices that must not be trusted


def test_a_bad_row_stops_the_build_and_leaves_nothing_behind(make_retriever, tmp_path):
    with (tmp_path / "corpus.jsonl").open("a") as file:
        file.write('{"id": "x"}\n')
    with pytest.raises(DataError, match=r"corpus\.jsonl:13: Expected the fields"):
        make_retriever().open()
    assert {path.name for path in tmp_path.iterdir()} == {"corpus.jsonl", ".index.lock"}


def test_a_missing_corpus_is_refused(make_retriever, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        make_retriever(corpus=str(tmp_path / "none.jsonl")).open()


def test_a_changed_corpus_is_refused(make_retriever, write_corpus):
    with make_retriever():
        pass
    write_corpus([("Paris", "A city.")])
    with pytest.raises(RetrievalError, match=r"Expected an index with corpus .* Delete .*index to build"):
        make_retriever().open()


def test_another_embedder_is_refused(make_retriever):
    with make_retriever():
        pass
    with pytest.raises(RetrievalError, match="Expected an index with embedder 'reversed', as configured, got one with"):
        make_retriever(embedder=ReversedEmbedder()).open()


def test_other_index_settings_and_another_collection_are_refused(make_retriever):
    with make_retriever():
        pass
    with pytest.raises(RetrievalError, match="Expected an index with hnsw"):
        make_retriever(max_neighbors=8).open()
    with pytest.raises(RetrievalError, match=r"Expected the collection 'other' in the index .*, got none. Delete"):
        make_retriever(collection="other").open()


@SEARCHES
def test_an_embedder_that_changed_under_its_fingerprint_is_caught_by_the_probes(make_retriever, embedder, search):
    with make_retriever(**search):
        pass
    with pytest.raises(RetrievalError, match=r"Expected 12 known passages to find themselves in .*, got 12 that"):
        make_retriever(embedder=ReversedEmbedder(embedder.fingerprint), **search).open()


@pytest.mark.slow
def test_missing_rows_are_refused(make_retriever, tmp_path):
    with make_retriever():
        pass
    change_collection(tmp_path / "index", "collection.delete(ids=['doc-3'])")
    # One row is below Chroma's sync threshold: the files are as they were, only the count tells.
    with pytest.raises(RetrievalError, match=r"Expected 12 passages in the index .*, got 11\. Delete"):
        make_retriever().open()


@pytest.mark.slow
def test_vectors_that_were_exchanged_are_caught_by_the_probes(make_retriever, tmp_path):
    with make_retriever():
        pass
    change_collection(tmp_path / "index", "collection.update(ids=['doc-3'], embeddings=[[0.0] * 255 + [1.0]])")
    with pytest.raises(RetrievalError, match=r"Expected 12 known passages to find themselves in .*, got 1 that"):
        make_retriever().open()


def change_collection(index: Path, change: str) -> None:
    code = (
        "import chromadb; from chromadb.config import Settings\n"
        f"client = chromadb.PersistentClient({str(index)!r}, settings=Settings(anonymized_telemetry=False))\n"
        "collection = client.get_collection('passages', embedding_function=None)\n"
        f"{change}\nclient.close()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@SEARCHES
def test_a_deleted_hnsw_folder_is_refused(make_retriever, tmp_path, search):
    with make_retriever(**search):
        pass
    shutil.rmtree(hnsw_folder(tmp_path / "index"))
    with pytest.raises(RetrievalError, match=r"got no such file: the index is damaged .* Delete .*index to build"):
        make_retriever(**search).open()


@SEARCHES
def test_without_the_sizes_in_the_manifest_a_deleted_hnsw_folder_is_still_refused(make_retriever, tmp_path, search):
    with make_retriever(**search):
        pass
    shutil.rmtree(hnsw_folder(tmp_path / "index"))
    manifest = tmp_path / "index/manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "file_bytes": {}}))
    with pytest.raises(RetrievalError, match=r"Delete .*index to build the index anew"):
        make_retriever(**search).open()


def test_a_truncated_vector_file_is_refused(make_retriever, tmp_path):
    with make_retriever():
        pass
    file = hnsw_folder(tmp_path / "index") / "data_level0.bin"
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(RetrievalError, match="the index is damaged and would answer wrongly"):
        make_retriever().open()


@pytest.mark.slow
def test_a_damaged_database_is_refused(make_retriever, tmp_path):
    with make_retriever():
        pass
    (tmp_path / "index/chroma.sqlite3").write_bytes(b"garbage" * 1000)
    with pytest.raises(RetrievalError, match=r"to answer, got InternalError: .*not a database.* Delete"):
        make_retriever().open()


@pytest.mark.parametrize("content", [None, "", "[]", '{"format": 1}', '{"format": 99}'])
def test_a_folder_without_a_manifest_that_can_be_read_is_refused_and_left_alone(make_retriever, tmp_path, content):
    (tmp_path / "index").mkdir()
    (tmp_path / "index/notes.txt").write_text("mine")
    if content is not None:
        (tmp_path / "index/manifest.json").write_text(content)
    with pytest.raises(RetrievalError, match=r"got a folder without a manifest\.json that can be read"):
        make_retriever().open()
    assert (tmp_path / "index/notes.txt").read_text() == "mine"


def test_a_path_that_cannot_be_written_is_refused(make_retriever, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RetrievalError, match="Expected a folder that can be written for the index"):
        make_retriever(path=str(tmp_path / "file/index")).open()


# Killed builds and several processes

BUILD = """
import logging, sys
from llds.retrieval import ChromaRetriever
from llds.retrieval.embedders.wordllama import WordLlamaEmbedder
class Slow(WordLlamaEmbedder):
    def embed_passages(self, passages):
        print("embedding", flush=True)
        __import__("time").sleep(float(sys.argv[3]))
        return super().embed_passages(passages)
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
with ChromaRetriever(sys.argv[1], sys.argv[2], embedder=Slow()) as retriever:
    print(retriever.retrieve(["capital of France"], 1)[0][0].title, flush=True)
"""


def start_build(tmp_path: Path, sleep_s: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILD, str(tmp_path / "index"), str(tmp_path / "corpus.jsonl"), str(sleep_s)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_build_killed_in_the_middle_is_never_taken_for_an_index(make_retriever, tmp_path):
    with start_build(tmp_path, sleep_s=60) as process:
        assert any(line == "embedding\n" for line in process.stdout)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "index").exists()
    assert (tmp_path / ".index.building").exists()
    with make_retriever() as retriever:
        assert retriever.retrieve(["capital of France"], 1)[0][0].title == "Paris"
    assert not (tmp_path / ".index.building").exists()


@pytest.mark.slow
def test_two_processes_that_open_at_once_build_one_index_and_both_answer(tmp_path, make_retriever):
    processes = [start_build(tmp_path, sleep_s=0.5) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert all(output.endswith("Paris\n") for output in outputs)
    assert sum(output.count("Building the index") for output in outputs) == 1
    assert sum(output.count("waiting for it") for output in outputs) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"corpus.jsonl", "index", ".index.lock"}


@pytest.mark.slow
def test_threads_that_open_at_once_build_one_index(make_retriever, tmp_path):
    retrievers = [make_retriever() for _ in range(4)]
    threads = [threading.Thread(target=retriever.open) for retriever in retrievers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({str(answers(retriever)) for retriever in retrievers}) == 1


# Real passages


@pytest.mark.slow
@pytest.mark.skipif(not SHARED_CORPUS.exists(), reason=f"needs {SHARED_CORPUS}")
def test_on_real_passages_hnsw_finds_99_percent_of_the_exact_top_3_and_reopening_is_quick(make_retriever, tmp_path):
    rows = list(islice(read_corpus(SHARED_CORPUS), 3_000))
    lines = [json.dumps({"id": row.document_id, "contents": f'"{row.title}"\n{row.text}'}) for row in rows]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    queries = [" ".join(row.text.split()[3:11]) for row in rows[::20]]
    with make_retriever() as exact, make_retriever(**HNSW) as approximate:
        expected, found = answers(exact, queries), answers(approximate, queries)
    shared = [len({i for i, _ in a} & {i for i, _ in b}) / 3 for a, b in zip(expected, found, strict=True)]
    assert np.mean(shared) >= 0.99
    start = time.monotonic()
    with make_retriever():
        assert time.monotonic() - start < 5

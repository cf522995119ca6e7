"""Reading corpora: the Search-R1 format, and everything that can be wrong with a file."""

import gzip
import json
import tracemalloc
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from llds.errors import DataError
from llds.retrieval.base import Passage
from llds.retrieval.corpus import check_corpus, passage_content, read_corpus

SHARED_CORPUS = Path(__file__).parents[4] / "shared/data/corpus/wiki40k.jsonl.gz"
GOOD = {"id": "0", "contents": '"Paris"\nCapital of France.'}


def write(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_title_and_text_are_split_and_the_quotes_around_the_title_removed(tmp_path):
    path = write(tmp_path / "c.jsonl", {"id": "7", "contents": '""Weird Al" Yankovic"\nA musician.\nFrom Downey.'})
    assert list(read_corpus(path)) == [Passage("7", '"Weird Al" Yankovic', "A musician.\nFrom Downey.")]


def test_contents_of_one_line_have_no_title(tmp_path):
    path = write(tmp_path / "c.jsonl", {"id": "7", "contents": "Paris is the capital of France."})
    [passage] = read_corpus(path)
    assert (passage.title, passage.text) == ("", "Paris is the capital of France.")
    assert passage_content(passage) == "Paris is the capital of France."


def test_a_title_without_quotes_and_a_number_as_id_are_read(tmp_path):
    path = write(tmp_path / "c.jsonl", {"id": 12, "contents": "Paris\nCapital."})
    assert list(read_corpus(path)) == [Passage("12", "Paris", "Capital.")]


def test_gzip_and_plain_files_give_the_same_passages_and_empty_lines_are_skipped(tmp_path):
    plain = write(tmp_path / "c.jsonl", GOOD, "", {**GOOD, "id": "1"}, "")
    packed = tmp_path / "c.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert list(read_corpus(packed)) == list(read_corpus(plain))
    assert [passage.document_id for passage in read_corpus(plain)] == ["0", "1"]


def test_columns_for_title_and_text_give_the_same_passages_in_jsonl_and_parquet(tmp_path):
    rows = [{"id": "7", "title": "Paris", "text": "Capital."}, {"id": "8", "title": None, "text": " Untitled. "}]
    expected = [Passage("7", "Paris", "Capital."), Passage("8", "", "Untitled.")]
    lines = write(tmp_path / "c.jsonl", *rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "c.parquet")
    assert list(read_corpus(lines)) == list(read_corpus(tmp_path / "c.parquet")) == expected
    assert check_corpus(lines).passages_hash == check_corpus(tmp_path / "c.parquet").passages_hash


def test_an_object_from_titles_to_sentences_is_a_corpus(tmp_path):
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"Paris": ["Capital", " of France."], "Yen": ["A currency."]}))
    expected = [Passage("Paris", "Paris", "Capital of France."), Passage("Yen", "Yen", "A currency.")]
    assert list(read_corpus(path)) == expected
    path.write_text(json.dumps({"Paris": ["Capital."], "Yen": []}))
    assert (check_corpus(path).rows, check_corpus(path).oddities.empty) == (1, 1)


def test_columns_that_hold_lists_are_no_titles(tmp_path):
    path = write(tmp_path / "c.jsonl", {"id": ["7"], "contents": ["Paris"]})
    with pytest.raises(DataError, match="Expected `id` to be a text"):
        check_corpus(path)


@pytest.mark.skipif(not SHARED_CORPUS.exists(), reason="the shared research data is not on this machine")
def test_the_corpus_of_hipporag_loads():
    corpus = check_corpus(SHARED_CORPUS.parents[1] / "questions" / "hipporag_hotpotqa_train_corpus.json")
    assert corpus.rows == 994


def test_a_row_that_repeats_id_and_text_is_merged_and_counted(tmp_path):
    path = write(tmp_path / "c.jsonl", GOOD, {**GOOD, "id": "1"}, GOOD, {**GOOD, "id": "2"}, {**GOOD, "id": "1"})
    corpus = check_corpus(path)
    assert (corpus.rows, len(corpus.merged)) == (3, 2)
    assert [passage.document_id for passage in corpus] == ["0", "1", "2"]
    once = write(tmp_path / "once.jsonl", GOOD, {**GOOD, "id": "1"}, {**GOOD, "id": "2"})
    assert check_corpus(once).passages_hash == corpus.passages_hash


def test_an_id_with_two_texts_is_refused_with_both_rows(tmp_path):
    path = write(tmp_path / "c.jsonl", GOOD, "", {**GOOD, "id": "1"}, {**GOOD, "contents": "Another text."})
    with pytest.raises(DataError, match=r"c\.jsonl:4: .* got '0' again, with another text than in row 1\."):
        check_corpus(path)


def test_the_same_words_split_into_id_title_and_text_otherwise_hash_otherwise(tmp_path):
    first = write(tmp_path / "a.jsonl", {"id": "1", "title": "ab", "text": "c"})
    second = write(tmp_path / "b.jsonl", {"id": "1", "title": "a", "text": "bc"})
    assert check_corpus(first).passages_hash != check_corpus(second).passages_hash
    assert check_corpus(first).text_bytes == check_corpus(second).text_bytes == 4


def test_a_corpus_that_changes_while_it_is_read_is_noticed(tmp_path):
    path = write(tmp_path / "c.jsonl", GOOD, {**GOOD, "id": "1"})
    corpus = check_corpus(path)
    write(path, GOOD, {**GOOD, "id": "2"})
    with pytest.raises(DataError, match="to stay as it is while it is read, got a change"):
        list(corpus)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "1"}, "Expected the fields `contents`, or `title` and `text`, with or without `id`, got ['id']"),
        ({"id": "1", "contents": ["x"]}, "Expected `contents` to be a text that is not empty, got ['x']"),
        ({"id": " ", "contents": "x"}, "Expected `id` to be a text that is not empty or a number, got ' '"),
        ({"id": None, "contents": "x"}, "Expected `id` to be a text that is not empty or a number, got None"),
        ({"id": True, "contents": "x"}, "Expected `id` to be a text that is not empty or a number, got True"),
        ({"id": "1", "contents": "a\ud800"}, "lone surrogate"),
        ({"id": "1", "title": ["a"], "text": "x"}, "Expected `title` to be a text"),
        ({"id": "1", "title": "a", "text": 3}, "Expected `text` to be a text that is not empty, got 3"),
        ("[1]", "Expected one JSON object per line, got '[1]'"),
        ('{"id": ', "Expected one JSON object per line, got"),
    ],
)
def test_a_bad_row_is_named_with_its_file_and_row(tmp_path, row, message):
    path = write(tmp_path / "c.jsonl", GOOD, row)
    with pytest.raises(DataError) as caught:
        list(read_corpus(path))
    assert f"{path}:2" in str(caught.value)
    assert message in str(caught.value)


def test_rows_without_an_id_get_their_number_which_is_said_once(tmp_path, caplog):
    rows = [{"title": "Paris", "text": "Capital."}, "", {"title": "Oslo", "text": "Capital, too."}]
    with caplog.at_level("INFO", "llds.retrieval"):
        corpus = check_corpus(write(tmp_path / "c.jsonl", *rows))
    assert list(corpus) == [Passage("1", "Paris", "Capital."), Passage("3", "Oslo", "Capital, too.")]
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'c.jsonl'}: 2 rows without `id` got the number of their row."
    ]


def test_the_ids_of_beir_are_ids_and_missing_ones_are_numbered(tmp_path):
    rows = [{"_id": "d1", "title": "T", "text": "x"}, {"title": "T", "text": "y"}]
    path = tmp_path / "corpus.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    corpus = check_corpus(path)
    assert [passage.document_id for passage in corpus] == ["d1", "2"]
    assert corpus.oddities.numbered == 1


@pytest.mark.parametrize(
    ("row", "title", "text"),
    [
        ({"docid": "7", "title": "Hunger", "text": "A novel."}, "Hunger", "A novel."),  # Tevatron
        ({"doc_id": "7", "text": "A novel."}, "", "A novel."),  # ir_datasets
        ({"id": "7", "content": "A novel.", "meta": {}}, "", "A novel."),  # Haystack
        ({"id": 7, "title": "Hunger", "paragraph_text": "A novel."}, "Hunger", "A novel."),  # MuSiQue
        ({"id": "7", "title": "Hunger", "contents": "A novel."}, "Hunger", "A novel."),  # Pyserini
        ({"id": "7", "title": "Hunger", "contents": "A novel.\nBy Hamsun."}, "Hunger", "A novel.\nBy Hamsun."),
        ({"id": "7", "title": "Hunger", "contents": "Hunger\nA novel."}, "Hunger", "A novel."),
        (
            {"id": "7", "title": '"Hunger"', "contents": '"Hunger"\nA novel.'},
            "Hunger",
            "A novel.",
        ),  # FlashRAG, from DPR
        ({"id": "7", "title": 1984, "contents": "1984\nA novel."}, "1984", "A novel."),
        ({"id": "7", "text": "A novel.", "content": "other"}, "", "A novel."),
    ],
)
def test_columns_are_read_by_the_names_that_others_give_them(tmp_path, row, title, text):
    path = tmp_path / "corpus.jsonl"
    path.write_text(json.dumps(row) + "\n")
    assert list(read_corpus(path)) == [Passage("7", title, text)]


def test_a_list_as_numpy_writes_it_is_no_text(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text(json.dumps({"id": "1", "title": "T", "text": "array(['x', 'y'], dtype=object)"}))
    with pytest.raises(DataError, match=r"corpus.jsonl:1: Expected `text` to be a text, got what Python or numpy"):
        check_corpus(path)


def test_documents_without_a_text_are_left_out_and_counted(tmp_path, caplog):
    empty = [{"id": "1", "contents": ""}, {"id": "2", "contents": '"Paris"\n '}, {"id": "3", "text": None}]
    with caplog.at_level("INFO", "llds.retrieval"):
        corpus = check_corpus(write(tmp_path / "c.jsonl", *empty, GOOD, GOOD, {"id": "4", "title": "a", "text": " "}))
    assert [passage.document_id for passage in corpus] == ["0"]
    assert (corpus.rows, len(corpus.merged), corpus.oddities.empty) == (1, 1, 4)
    assert "4 rows without a text are left out" in caplog.text


def test_all_bad_rows_are_named_at_once(tmp_path):
    path = write(tmp_path / "c.jsonl", GOOD, "[1]", {"id": 2}, *[{"id": n, "contents": 3} for n in range(20)])
    with pytest.raises(DataError, match=r"got 22 that cannot:\n") as caught:
        check_corpus(path)
    lines = str(caught.value).splitlines()
    assert [f":{number}" in line for number, line in enumerate(lines[1:11], start=2)] == [True] * 10
    assert lines[-1].strip() == "... and 12 more."


@pytest.mark.slow
def test_memory_grows_by_what_is_stated_and_not_with_the_texts(tmp_path):
    def peak(rows: int) -> int:
        path = write(
            tmp_path / "c.jsonl", *({"id": f"id{n}", "contents": f"{n} " + "word " * 100} for n in range(rows))
        )
        tracemalloc.start()
        check_corpus(path)
        try:
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)  # what is imported at first use
    assert (peak(12_000) - peak(4_000)) / 8_000 < 24  # 16 a row, and what an array has in reserve


@pytest.mark.parametrize("content", ["", "\n  \n"])
def test_an_empty_corpus_is_refused(tmp_path, content):
    path = tmp_path / "c.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match="Expected at least one passage, got an empty corpus"):
        list(read_corpus(path))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"does not exist. Check `retriever\.corpus`"):
        list(read_corpus(tmp_path / "c.jsonl"))


def test_a_gzip_file_that_was_cut_is_refused(tmp_path):
    path = tmp_path / "c.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(json.dumps({**GOOD, "id": n}) for n in range(99)).encode())[:-20])
    with pytest.raises(DataError, match="Expected readable bytes"):
        check_corpus(path)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED_CORPUS.exists(), reason=f"needs {SHARED_CORPUS}")
def test_a_real_corpus_is_read_whole():
    passages = list(read_corpus(SHARED_CORPUS))
    assert len(passages) == 40_634
    assert passages[1].title == "Nidal Hasan"
    assert all(passage.text and "\n" not in passage.title for passage in passages)

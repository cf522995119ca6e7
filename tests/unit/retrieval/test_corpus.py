"""Reading corpora: the Search-R1 format, and everything that can be wrong with a file."""

import gzip
import json
from pathlib import Path

import pytest

from llds.errors import DataError
from llds.retrieval.base import Passage
from llds.retrieval.corpus import corpus_hash, passage_content, read_corpus

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


def test_the_corpus_is_read_lazily(tmp_path):
    path = write(tmp_path / "c.jsonl", GOOD, "not json")
    passages = read_corpus(path)
    assert next(passages).document_id == "0"
    with pytest.raises(DataError):
        next(passages)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"contents": "x"}, "Expected the fields `id` and `contents`, got ['contents']"),
        ({"id": "1"}, "Expected the fields `id` and `contents`, got ['id']"),
        ({"id": "1", "contents": ""}, "Expected `contents` to be a text that is not empty, got ''"),
        ({"id": "1", "contents": ["x"]}, "Expected `contents` to be a text that is not empty, got ['x']"),
        ({"id": " ", "contents": "x"}, "Expected `id` to be a text that is not empty or a number, got ' '"),
        ({"id": None, "contents": "x"}, "Expected `id` to be a text that is not empty or a number, got None"),
        ({"id": True, "contents": "x"}, "Expected `id` to be a text that is not empty or a number, got True"),
        ({"id": "1", "contents": "a\ud800"}, "lone surrogate"),
        (GOOD, "Expected every `id` once, got '0' again (first in row 1)"),
        ("[1]", "Expected a JSON object, got list"),
        ('{"id": ', "Expected a JSON object, got"),
    ],
)
def test_a_bad_row_is_named_with_its_file_and_row(tmp_path, row, message):
    path = write(tmp_path / "c.jsonl", GOOD, row)
    with pytest.raises(DataError) as caught:
        list(read_corpus(path))
    assert str(caught.value).startswith(f"{path}:2: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("content", ["", "\n  \n"])
def test_an_empty_corpus_is_refused(tmp_path, content):
    path = tmp_path / "c.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match="Expected at least one passage, got an empty corpus"):
        list(read_corpus(path))


def test_a_missing_file_and_another_format_are_refused(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        list(read_corpus(tmp_path / "c.jsonl"))
    with pytest.raises(DataError, match=r"Expected a corpus in a \.jsonl"):
        corpus_hash(tmp_path / "c.parquet")


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: b"plain text", lambda data: data[:40]])
def test_a_damaged_gzip_file_is_refused(tmp_path, damage):
    path = tmp_path / "c.jsonl.gz"
    path.write_bytes(damage(gzip.compress("\n".join(json.dumps({**GOOD, "id": n}) for n in range(99)).encode())))
    with pytest.raises(DataError, match="got a damaged file"):
        list(read_corpus(path))


def test_bytes_that_are_not_utf_8_are_refused(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_bytes(b'{"id": "1", "contents": "caf\xe9"}\n')
    with pytest.raises(DataError, match="Expected UTF-8 text, got a damaged file"):
        list(read_corpus(path))


def test_the_hash_changes_with_the_file(tmp_path):
    path = write(tmp_path / "c.jsonl", GOOD)
    before = corpus_hash(path)
    assert corpus_hash(path) == before
    write(path, {**GOOD, "id": "1"})
    assert corpus_hash(path) != before


@pytest.mark.skipif(not SHARED_CORPUS.exists(), reason=f"needs {SHARED_CORPUS}")
def test_a_real_corpus_is_read_whole():
    passages = list(read_corpus(SHARED_CORPUS))
    assert len(passages) == 40_634
    assert passages[1].title == "Nidal Hasan"
    assert all(passage.text and "\n" not in passage.title for passage in passages)

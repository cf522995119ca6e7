"""Files as people really have them: each gives one clear line with its place, or its rows are skipped and counted.

Never an error of another kind, never silence.
"""

import bz2
import gzip
import io
import json
import lzma
import os
import random
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from llds.data import DataSource, read_source
from llds.errors import DataError
from llds.files import read_rows

GOOD = [{"id": n, "question": f"Question {n}?", "golden_answers": ["Oslo", "Christiania"]} for n in range(3)]


def line(**change: Any) -> bytes:
    """A row like the others but for one change; a column whose value is Ellipsis is not there."""
    row = {"id": "x", "question": "Capital?", "golden_answers": ["Oslo"], **change}
    return json.dumps({name: value for name, value in row.items() if value is not ...}).encode()


def lines(*more: bytes) -> bytes:
    return b"\n".join([*(json.dumps(row).encode() for row in GOOD), *more]) + b"\n"


def parquet(rows: list[dict[str, Any]] | pyarrow.Table) -> bytes:
    buffer = io.BytesIO()
    table = pyarrow.Table.from_pylist(rows) if isinstance(rows, list) else rows
    pyarrow.parquet.write_table(table, buffer)
    return buffer.getvalue()


def zipped(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("q.jsonl", content)
    return buffer.getvalue()


@dataclass(frozen=True)
class File:
    """A file to be made, what the error says, and how many of its rows are fine."""

    content: bytes
    message: str
    name: str = "q.jsonl"
    good: int = len(GOOD)


MANY = [{**GOOD[0], "id": n, "question": f"Question {n * n}?"} for n in range(900)]
WHOLE_PARQUET = parquet(MANY)
WHOLE_GZIP = gzip.compress(b"".join(json.dumps(row).encode() + b"\n" for row in MANY))
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"

BAD_ROWS = {  # one row is malformed, the others are fine
    "no json": File(lines(b"question: Capital?"), "one JSON object per line"),
    "cut off": File(lines(line()[:-20]), "one JSON object per line"),
    "two objects in a line": File(lines(line() + line(id=2)), "Extra data"),
    "trailing comma": File(lines(line()[:-1] + b",}"), "one JSON object per line"),
    "single quotes": File(lines(line().replace(b'"', b"'")), "one JSON object per line"),
    "a list": File(lines(b'["Capital?", "Oslo"]'), "one JSON object per line"),
    "a string": File(lines(b'"Capital?"'), "one JSON object per line"),
    "null": File(lines(b"null"), "one JSON object per line"),
    "NaN": File(lines(line(score=float("nan"))), "NaN, which is no JSON number"),
    "Infinity": File(lines(line(score=float("inf"))), "Infinity, which is no JSON number"),
    "a number of 5,000 digits": File(lines(line()[:-1] + b', "n": ' + b"9" * 5000 + b"}"), "one JSON object per line"),
    "a name twice": File(lines(line()[:-1] + b', "question": "Another?"}'), "'question' twice"),
    "nested too deep": File(lines(b'{"question": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "recursion"),
    "a raw null byte": File(lines(line().replace(b"Capital", b"Cap\x00tal")), "Invalid control character"),
    "a written null byte": File(lines(line(question="Cap\x00tal?")), "null characters in column `question`"),
    "null bytes alone": File(lines(b"\x00" * 512), "one JSON object per line"),
    "latin-1": File(lines(line().replace(b"Oslo", b"Malm\xf6")), "utf-8"),
    "utf-16 inside": File(lines("Frage".encode("utf-16")), "one JSON object per line"),
    "half a surrogate": File(lines(line(question="\ud83d?")), "Unicode .*column `question`"),
    "half a surrogate in an answer": File(lines(line(golden_answers=["\udc00"])), "Unicode .*column `golden_answers`"),
    "a line of 10 MB": File(lines(line(question="x" * 10_000_000)), "at most 100,000 characters in column `question`"),
    "a line of 10 MB that is no json": File(lines(b"x" * 10_000_000), "one JSON object per line"),
    "no question": File(lines(line(question=...)), "column `question`"),
    "an empty question": File(lines(line(question="  ")), "column `question`"),
    "a question that is null": File(lines(line(question=None)), "column `question`"),
    "a question that is a number": File(lines(line(question=42)), "column `question`, got 42"),
    "a question that is an object": File(lines(line(question={"text": "Capital?"})), "column `question`"),
    "no answers": File(lines(line(golden_answers=...)), "column `golden_answers`"),
    "an empty list of answers": File(lines(line(golden_answers=[])), "column `golden_answers`"),
    "empty answers": File(lines(line(golden_answers=["", " "])), "column `golden_answers`"),
    "answers of mixed types": File(lines(line(golden_answers=["Oslo", {"x": 1}])), "column `golden_answers`"),
    "numpy's way to write a list": File(lines(line(golden_answers="array(['Oslo'], dtype=object)")), "got \"array"),
    "an id that came before": File(lines(line(id=0)), "unique .* got '0' at"),
    "the same row twice": File(lines(json.dumps(GOOD[0]).encode()), "unique"),
    "an empty id": File(lines(line(id="")), "column `id`"),
    "an id that is a float": File(lines(line(id=1.0)), "column `id`"),
    "an id that is a list": File(lines(line(id=[1])), "column `id`"),
    "a data source that is a number": File(lines(line(data_source=3)), "column `data_source`"),
    "a tag in the question": File(lines(line(question="Answer in <answer> tags: Capital?")), "instructions"),
    "a merge conflict": File(lines(b"<<<<<<< HEAD"), "one JSON object per line"),
    "a comment": File(lines(b"# the end"), "one JSON object per line"),
    "gzip: a bad line": File(gzip.compress(lines(b"oh")), "one JSON object per line", "q.jsonl.gz"),
    "list: a number": File(json.dumps([*GOOD, 3]).encode(), "list of JSON objects, got 3", "q.json"),
    "list: a wrong type": File(json.dumps([*GOOD, {"question": 3}]).encode(), "column `question`", "q.json"),
    "csv: too few cells": File(b"question,answer\na?,x\nb?,y\nc?,z\nd?\n", "Expected 2 cells", "q.csv"),
    "csv: too many cells": File(b"question,answer\na?,x\nb?,y\nc?,z\nd?,1,2\n", "Expected 2 cells", "q.csv"),
    "csv: an empty cell": File(b"question,answer\na?,x\nb?,y\nc?,z\nd?,\n", "column `answer`", "q.csv"),
    "tsv: spaces for tabs": File(b"question\tanswer\na?\tx\nb?\ty\nc?\tz\nd? x\n", "Expected 2 cells", "q.tsv"),
    "parquet: a null": File(parquet([*GOOD, {**GOOD[0], "id": 9, "question": None}]), "`question`", "q.parquet"),
    "parquet: no answers": File(parquet([*GOOD, {**GOOD[0], "id": 9, "golden_answers": []}]), "`golden", "q.parquet"),
    "parquet: an id twice": File(parquet([*GOOD, GOOD[1]]), "unique", "q.parquet"),
    "parquet: bytes that are no text": File(
        parquet(pyarrow.table({"question": pyarrow.array([b"a?", b"b?", b"c?", b"\xff?"]).view(pyarrow.string()),
                               "answer": ["x"] * 4})), "utf-8", "q.parquet"),
}  # fmt: skip

BAD_FILES = {  # nothing of the file can be used, or nobody knows how much of it is missing
    "empty": File(b"", "at least one row"),
    "empty parquet file": File(b"", "at least one row", "q.parquet"),
    "empty csv file": File(b"", "at least one row", "q.csv"),
    "white space": File(b"\n  \n\r\n", "at least one row"),
    "a byte-order mark alone": File(b"\xef\xbb\xbf", "at least one row"),
    "an empty list": File(b"[]", "at least one row", "q.json"),
    "an empty gzip file": File(gzip.compress(b""), "at least one row", "q.jsonl.gz"),
    "a parquet file without rows": File(parquet(pyarrow.table({"question": pyarrow.array([], pyarrow.string())})),
                                        "at least one row", "q.parquet"),
    "a csv header alone": File(b"question,answer\n", "at least one row", "q.csv"),
    "a pointer of Git LFS": File(LFS, "git lfs pull"),
    "a pointer of Git LFS for parquet": File(LFS, "git lfs pull", "q.parquet"),
    "a pointer of Git LFS for gzip": File(LFS, "git lfs pull", "q.jsonl.gz"),
    "a web page": File(b"<!DOCTYPE html><html><head>404", "a web page"),
    "xml": File(b'<?xml version="1.0"?><x/>', "XML"),
    "utf-16": File(lines().decode().encode("utf-16"), "UTF-16"),
    "utf-16 csv": File("question,answer\na?,x\n".encode("utf-16"), "UTF-16", "q.csv"),
    "null bytes": File(b"\x00" * 4096, "null bytes"),
    "zip": File(zipped(lines()), "zip archive"),
    "a spreadsheet": File(zipped(lines()), "spreadsheet", "q.csv"),
    "bzip2": File(bz2.compress(lines()), "bzip2"),
    "xz": File(lzma.compress(lines()), "xz"),
    "zstd": File(b"\x28\xb5\x2f\xfd\x00\x01", "zstd"),
    "arrow": File(b"ARROW1\x00\x00", "Arrow"),
    "cut off gzip": File(WHOLE_GZIP[: len(WHOLE_GZIP) // 2], "readable bytes", "q.jsonl.gz"),
    "gzip without its checksum": File(WHOLE_GZIP[:-8], "readable bytes", "q.jsonl.gz"),
    "gzip with a flipped bit": File(WHOLE_GZIP[:60] + b"\xff" + WHOLE_GZIP[61:], "readable bytes", "q.jsonl.gz"),
    "gzip and garbage": File(WHOLE_GZIP + b"garbage", "readable bytes", "q.jsonl.gz"),
    "gzip of gzip": File(gzip.compress(WHOLE_GZIP), "q.jsonl", "q.jsonl.gz"),
    "gzip of parquet": File(gzip.compress(WHOLE_PARQUET), "parquet inside of gzip", "q.parquet.gz"),
    "cut off parquet": File(WHOLE_PARQUET[: len(WHOLE_PARQUET) // 2], "a parquet file, got", "q.parquet"),
    "parquet without its footer": File(WHOLE_PARQUET[:-4], "a parquet file, got", "q.parquet"),
    "parquet by name alone": File(b"not parquet", "a parquet file, got 'not parquet'", "q.parquet"),
    "parquet with a broken footer": File(WHOLE_PARQUET[:-40] + b"\xff" * 32 + WHOLE_PARQUET[-8:], "a parquet file, got",
                                         "q.parquet"),
    "wrong columns": File(b'{"q": "Capital?", "a": "Oslo"}\n' * 3, "column `question` or .*columns `q`, `a`"),
    "wrong columns in csv": File(b"q;a\nCapital?;Oslo\n", "columns `q`, `a`", "q.csv"),
    "wrong columns in parquet": File(parquet([{"q": "Capital?"}]), "columns `q`", "q.parquet"),
    "a list that is cut off": File(json.dumps(GOOD).encode()[:-30], "valid JSON", "q.json"),
    "a list without an end": File(json.dumps(GOOD).encode()[:-1], "got the end", "q.json"),
    "a list and garbage": File(json.dumps(GOOD).encode() + b"garbage", "nothing after the list", "q.json"),
    "two lists": File(json.dumps(GOOD).encode() * 2, "nothing after the list", "q.json"),
    "a list of lists": File(b"[[[1]]]", "list of JSON objects", "q.json"),
    "a list with latin-1": File(b'[{"question": "caf\xe9?"}]', "UTF-8", "q.json"),
    "a list that is nested too deep": File(b"[" * 100_000, "recursion", "q.json"),
    "an object of another kind": File(b'{"Paris": ["a", "b"], "Oslo": ["c"]}', "columns `Paris`, `Oslo`", "q.json"),
    "python's repr": File(b"{'question': 'Capital?'}\n", "one JSON object per line"),
    "yaml": File(b"- question: Capital?\n  answer: Oslo\n", "one JSON object per line"),
    "a pickle": File(b"\x80\x04\x95\x10\x00\x00\x00", "Expected jsonl", "q.pkl"),
    "another name": File(b"Capital? Oslo", "Expected jsonl", "q.txt"),
    "csv: a quote that never closes": File(b'question,answer\n"Capital?,Oslo\nb?,y\n', "cannot be read", "q.csv"),
    "csv: a column twice": File(b"question,answer,answer\na?,x,y\n", "each once", "q.csv"),
    "csv: a column without a name": File(b"question,\na?,x\n", "each once", "q.csv"),
    "csv: latin-1": File(b"question,answer\ncaf\xe9?,x\n", "UTF-8", "q.csv"),
    "csv: old mac line ends": File(b"question,answer\ra?,x\r", "cannot be read", "q.csv"),
    "jsonl: old mac line ends": File(lines().replace(b"\n", b"\r"), "Extra data"),
}  # fmt: skip

FINE = {  # odd, and yet nothing is lost
    "a byte-order mark": File(b"\xef\xbb\xbf" + lines(), ""),
    "windows line ends": File(lines().replace(b"\n", b"\r\n"), ""),
    "empty lines": File(lines().replace(b"\n", b"\n\n"), ""),
    "no newline at the end": File(lines().rstrip(), ""),
    "lines in a json file": File(lines(), "", "q.json"),
    "a list in a jsonl file": File(json.dumps(GOOD).encode(), "", "q.jsonl"),
    "a pretty list": File(json.dumps(GOOD, indent=4).encode(), "", "q.json"),
    "parquet in a jsonl file": File(parquet(GOOD), "", "q.jsonl"),
    "jsonl in a parquet file": File(lines(), "", "q.parquet"),
    "gzip without the suffix": File(gzip.compress(lines()), "", "q.jsonl"),
    "the suffix without gzip": File(lines(), "", "q.jsonl.gz"),
    "no suffix": File(lines(), "", "q"),
    "gzip in two parts": File(gzip.compress(lines()[:150]) + gzip.compress(lines()[150:]), "", "q.jsonl.gz"),
    "line separators of Unicode": File(lines().replace(b"Question 1", b"Question \xe2\x80\xa8 1"), ""),
    "emoji": File(lines().replace(b"Oslo", "🏔️".encode()), ""),
}


def test_there_are_enough_of_them() -> None:
    assert len(BAD_ROWS) + len(BAD_FILES) >= 60


def put(folder: Path, file: File) -> DataSource:
    path = folder / file.name
    path.write_bytes(file.content)
    return DataSource(str(path))


def skipping(source: DataSource) -> DataSource:
    return DataSource(source.path, on_bad_row="skip")


def assert_clear(error: BaseException, path: str) -> None:
    text = str(error)
    assert type(error) is DataError
    assert text.startswith("Expected ")
    assert path in text
    assert "\n" not in text
    assert text.isprintable()
    assert len(text) < 700 + 2 * len(path)


@pytest.mark.parametrize("file", BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_a_malformed_row_is_an_error_with_its_place_or_is_skipped_and_counted(tmp_path: Path, file: File) -> None:
    source = put(tmp_path, file)
    with pytest.raises(DataError, match=file.message) as caught:
        read_source(source)
    assert_clear(caught.value, f"{source.path}:{5 if file.name[-3:] in ('csv', 'tsv') else 4}")
    questions = read_source(skipping(source))
    assert len(questions.prompts) == file.good
    assert questions.bad_rows.count == 1
    assert str(questions.bad_rows.first) == str(caught.value)
    (note,) = questions.notes()
    assert "skipped 1 malformed row; the first: " in note


@pytest.mark.parametrize("file", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_file_that_cannot_be_used_is_an_error_with_its_place(tmp_path: Path, file: File) -> None:
    source = put(tmp_path, file)
    for one in (source, skipping(source)):
        with pytest.raises(DataError, match=file.message) as caught:
            read_source(one)
        assert_clear(caught.value, source.path)


@pytest.mark.parametrize("file", FINE.values(), ids=FINE.keys())
def test_a_file_that_is_only_odd_is_read_whole(tmp_path: Path, file: File) -> None:
    questions = read_source(put(tmp_path, file))
    assert (len(questions.prompts), questions.bad_rows.count) == (file.good, 0)


def test_what_is_no_file_is_an_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "broken.jsonl").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.jsonl").symlink_to(tmp_path / "loop.jsonl")
    os.mkfifo(tmp_path / "pipe.jsonl")
    for name in ("folder.jsonl", "broken.jsonl", "loop.jsonl", "pipe.jsonl", "nowhere.jsonl", "x" * 300, "nowhere/x"):
        with pytest.raises(DataError, match=r"^Expected ") as caught:
            read_source(DataSource(str(tmp_path / name)))
        assert_clear(caught.value, str(tmp_path / name))
    with pytest.raises(DataError, match=r"^Expected "):
        read_source(DataSource(str(tmp_path / "null\x00byte")))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_is_an_error_with_its_name(tmp_path: Path) -> None:
    source = put(tmp_path, File(lines(), ""))
    Path(source.path).chmod(0)
    with pytest.raises(DataError, match="Permission denied") as caught:
        read_source(source)
    assert_clear(caught.value, source.path)


def damage(content: bytes, generator: random.Random) -> bytes:
    """Bytes with a few of them changed, removed, repeated, or cut off."""
    data = bytearray(content)
    for _ in range(generator.randint(1, 4)):
        at = generator.randrange(len(data) or 1)
        match generator.randrange(5):
            case 0:
                data[at : at + 1] = bytes([generator.randrange(256)])
            case 1:
                del data[at : at + generator.randint(1, 30)]
            case 2:
                data[at:at] = data[at : at + generator.randint(1, 50)]
            case 3:
                data[at:at] = generator.choice(
                    [b'"', b"\n", b"\x00", b"\\u", b"[", b"}", b",", b"\xff", b"\xef\xbb\xbf"]
                )
            case _:
                data = data[: generator.randrange(len(data) + 1)]
    return bytes(data)


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    return "".join(f'{row["id"]},"{row["question"]}",Oslo\n' for row in [{"id": "id", "question": "question"}, *rows]
                   ).replace("Oslo", "answer", 1).encode()  # fmt: skip


FUZZED: dict[str, Callable[[], bytes]] = {
    "q.jsonl": lambda: lines(),
    "q.json": lambda: json.dumps(GOOD, indent=1).encode(),
    "q.csv": lambda: as_csv(GOOD),
    "q.jsonl.gz": lambda: gzip.compress(lines()),
    "q.parquet": lambda: parquet(GOOD),
}


@pytest.mark.parametrize("name", FUZZED)
def test_damaged_bytes_are_read_or_refused_in_one_line(tmp_path: Path, name: str) -> None:
    generator, whole = random.Random(name), FUZZED[name]()
    assert len(read_source(put(tmp_path, File(whole, "", name))).prompts) == len(GOOD)
    refused = 0
    for _ in range(300):
        source = skipping(put(tmp_path, File(damage(whole, generator), "", name)))
        try:
            questions = read_source(source)
        except DataError as error:
            refused += 1
            assert_clear(error, source.path)
            continue
        assert questions.prompts
        if name == "q.jsonl":  # no row is lost without being counted
            written = [
                one for one in Path(source.path).read_bytes().split(b"\n") if one.strip(b" \t\r\n\f\v\xef\xbb\xbf")
            ]
            assert len(questions.prompts) + questions.bad_rows.count == len(written)
        if name == "q.jsonl.gz":  # the checksum of gzip sees every change of the text
            assert [dict(row.values) for row in read_rows(source.path)] == GOOD
    assert refused > 20

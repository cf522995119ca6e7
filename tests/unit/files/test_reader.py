"""Files as rows: formats by content, order, and one clear message for each way in which a file can be broken."""

import gzip
import json
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from llds.errors import DataError
from llds.files import BadRows, read_rows

ROWS = [{"a": 1}, {"a": '北京 <|x|>, "y"; z'}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def write(folder: Path, content: bytes | str, name: str = "q.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def values(path: Path | str, **settings: Any) -> list[dict[str, Any]]:
    return [dict(row.values) for row in read_rows(path, **settings)]


def parquet_bytes(rows: list[dict[str, Any]], folder: Path) -> bytes:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "made.parquet")
    return (folder / "made.parquet").read_bytes()


@pytest.mark.parametrize("name", ["q.jsonl", "q.json", "q.jsonl.gz", "q.data", "q", "Q.JSONL"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        LINES,
        b"\xef\xbb\xbf" + LINES,
        LINES.replace(b"\n", b"\r\n"),
        b"\n \n" + LINES + b"\n\n",
        LINES.rstrip(),
        json.dumps(ROWS).encode(),
        json.dumps(ROWS, indent=2, ensure_ascii=False).encode(),
        b"\xef\xbb\xbf \n" + json.dumps(ROWS).encode() + b"\n",
        json.dumps({"version": 1, "data": ROWS}, indent=1).encode(),
    ],
    ids=["lines", "bom", "crlf", "empty lines", "no newline", "list", "pretty list", "bom and list", "object"],
)
def test_json_is_known_by_its_content_whatever_its_name(tmp_path: Path, name: str, packed: bool, text: bytes) -> None:
    assert values(write(tmp_path, gzip.compress(text) if packed else text, name)) == ROWS


def test_an_object_that_is_alone_in_a_json_file_is_looked_into(tmp_path: Path) -> None:
    assert values(write(tmp_path, json.dumps({"data": ROWS}), "q.json")) == ROWS
    assert values(write(tmp_path, json.dumps(ROWS[0]), "q.json")) == ROWS[:1]
    assert values(write(tmp_path, json.dumps({"data": ROWS}), "q.jsonl")) == [{"data": ROWS}]


@pytest.mark.parametrize("name", ["q.parquet", "q.jsonl", "q"])
def test_parquet_is_known_by_its_content_and_gives_plain_python_values(tmp_path: Path, name: str) -> None:
    table = [{"q": f"q{i}", "answers": ["x", "y"], "n": {"m": None}} for i in range(3000)]
    path = write(tmp_path, parquet_bytes(table, tmp_path), name)
    rows = list(read_rows(path))
    assert [dict(row.values) for row in rows] == table
    assert rows[2999].origin == f"{path}:3000"


def test_separated_values_take_their_names_from_the_header(tmp_path: Path) -> None:
    expected = [{"q": 'a "b", c', "a": "x"}, {"q": "two\nlines", "a": ""}, {"q": "d", "a": "e"}]
    for name, text in (
        ("q.csv", 'q,a\n"a ""b"", c",x\n"two\nlines",\n\nd,e\n'),
        ("q.tsv", 'q\ta\n"a ""b"", c"\tx\n"two\nlines"\t\nd\te\n'),
        ("tabs.csv", 'q\ta\n"a ""b"", c"\tx\n"two\nlines"\t\nd\te\n'),
        ("semicolons.csv", '\ufeffq;a\r\n"a ""b"", c";x\r\n"two\nlines";\r\nd;e\r\n'),
    ):
        rows = list(read_rows(write(tmp_path, text, name)))
        assert [dict(row.values) for row in rows] == expected
        assert [row.number for row in rows][:2] == [2, 3]  # a row that spans lines is named by its first
    assert values(write(tmp_path, gzip.compress(b"q,a\n1,2\n"), "q.csv.gz")) == [{"q": "1", "a": "2"}]


def test_a_format_that_is_named_wins(tmp_path: Path) -> None:
    assert values(write(tmp_path, "q,a\n1,2\n", "q.txt"), file_format="csv") == [{"q": "1", "a": "2"}]
    assert values(write(tmp_path, '{"x"}\ty\n1\t2\n', "q.txt"), file_format="tsv") == [{'{"x"}': "1", "y": "2"}]


def test_rows_are_named_by_file_and_line_or_number(tmp_path: Path) -> None:
    lines = write(tmp_path, b"\n" + LINES)
    assert [row.origin for row in read_rows(str(lines))] == [f"{lines}:2", f"{lines}:3"]
    listed = write(tmp_path, json.dumps(ROWS, indent=2), "q.json")
    assert [row.origin for row in read_rows(listed)] == [f"{listed}:1", f"{listed}:2"]


@pytest.mark.parametrize("text", ['{"a": 1}\n{"a": 2}\nnot json', '[{"a": 1}, {"a": 2}, oh', '[{"a": 1}, {"a": 2} oh'])
def test_rows_are_read_one_at_a_time(tmp_path: Path, text: str) -> None:
    rows = read_rows(write(tmp_path, text))
    assert [row.values["a"] for row in islice(rows, 2 if "} oh" not in text else 1)] == [1, 2][
        : 1 + ("} oh" not in text)
    ]
    with pytest.raises(DataError):
        list(rows)


def test_a_file_inside_the_package_is_read_by_its_short_name() -> None:
    assert len(list(islice(read_rows("llds:quickstart/train.jsonl"), 3))) == 3


@pytest.mark.parametrize("text", ["", "\n \n", "\ufeff", "[]", " [ ] \n"])
@pytest.mark.parametrize("name", ["q.jsonl", "q.json", "q.parquet", "q.csv", "q"])
def test_a_file_without_rows_has_none(tmp_path: Path, text: str, name: str) -> None:
    if not name.endswith("csv") or not text.strip("\ufeff"):  # separated values would have a header
        assert values(write(tmp_path, text, name)) == []


@pytest.mark.parametrize(
    "line",
    ["not json", '{"a": 1', "[1, 2]", '"text"', "3", "null", "[" * 100_000, '{"a": NaN}', '{"a": -Infinity}',
     '{"a": 1, "a": 2}', '{"a": 1} {"a": 2}', '{"a": "\x00"}', '{"a": ' + "9" * 5000 + "}", "x" * 10_000_000],
)  # fmt: skip
def test_a_malformed_line_is_refused_with_its_place_or_skipped(tmp_path: Path, line: str) -> None:
    path = write(tmp_path, LINES.decode() + line + "\n" + LINES.decode())
    with pytest.raises(DataError, match=r"Expected one JSON object per line, got '.*jsonl:3") as caught:
        values(path)
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)
    bad_rows = BadRows("skip")
    assert values(path, bad_rows=bad_rows) == ROWS + ROWS
    assert (bad_rows.count, str(bad_rows.first)) == (1, str(caught.value))


def test_items_that_are_no_objects_are_refused_or_skipped(tmp_path: Path) -> None:
    path = write(tmp_path, json.dumps([ROWS[0], 3, [ROWS[1]], None, ROWS[1]]))
    with pytest.raises(DataError, match=r"Expected a list of JSON objects, got 3 at .*:2\."):
        values(path)
    bad_rows = BadRows("skip")
    assert values(path, bad_rows=bad_rows) == ROWS
    assert bad_rows.count == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1}, {"a": ', r"Expected valid JSON, got '\{\"a\": ' at .*:2 \("),
        ('[{"a": 1}', r"Expected `,` or `\]` after item 1, got the end at .*:1\."),
        ('[{"a": 1}, ]', r"Expected valid JSON, got '\]' at .*:2 \("),
        ('[{"a": 1}] {"b"', r"Expected nothing after the list, got '\{\"b\"' at .*:2\."),
        ('[{"a": 1} {"b": 2}]', r"Expected `,` or `\]` after item 1, got '\{\"b\": 2\}\]' at .*:1\."),
        ('[{"a": NaN}]', r"NaN, which is no JSON number"),
        ("[" * 100_000, r"Expected valid JSON, got '\[\[\[.*:1 \(maximum recursion depth"),
        ('{\n"a": 1}\n{\n"a": 2}', r"Expected one object per line, or one object in all, got .*:2\."),
        ('{\n"a": 1', r"Expected valid JSON, .*:1 \("),
        (b'[{"a": "x"},\n{"a": "\xff"}]', r"Expected UTF-8 text, got .* in line 2 at .*:2\."),
    ],
)
def test_a_damaged_list_is_an_error_even_where_rows_are_skipped(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    for action in ("error", "skip"):
        with pytest.raises(DataError, match=message) as caught:
            values(write(tmp_path, text), bad_rows=BadRows(action))  # type: ignore[arg-type]
        assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q,a\n1,2,3\n", r"Expected 2 cells as in the header, got 3 at .*csv:2\."),
        ("q,a\n1\n", r"Expected 2 cells as in the header, got 1 at .*csv:2\."),
        ("q,q\n1,2\n", r"names of the columns, each once, got \['q', 'q'\] at .*csv:1\."),
        ("q,\n1,2\n", r"names of the columns, each once"),
        ('q,a\n1,2\n"open,3\n4,5\n', r"a row that cannot be read at .*csv:3 \("),
        ("q,a\r1,2\r", r"a row that cannot be read at .*csv:1 \("),
        (b"q,a\n1,caf\xe9\n", r"Expected UTF-8 text, got '1,caf\\\\xe9' at .*csv:2 \("),
        ("q,a\n1," + "x" * 200_000, r"a row that cannot be read at .*csv:2 \(field larger"),
    ],
)
def test_damaged_separated_values_are_refused_with_their_place(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        values(write(tmp_path, text, "q.csv"))


def test_rows_with_a_wrong_number_of_cells_may_be_skipped(tmp_path: Path) -> None:
    bad_rows = BadRows("skip")
    assert values(write(tmp_path, "q,a\n1\n1,2\n1,2,3\n", "q.csv"), bad_rows=bad_rows) == [{"q": "1", "a": "2"}]
    assert bad_rows.count == 2


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", r"a pointer of Git LFS.*git lfs pull"),
        (b"<!DOCTYPE html>\n<html>", "a web page"),
        (b"<html><body>404", "a web page"),
        ('{"a": 1}'.encode("utf-16"), "UTF-16 text: save it as UTF-8"),
        ('{"a": 1}'.encode("utf-16-le")[1:], "at .*:1|null bytes"),
        (b"PK\x03\x04rest", "a zip archive"),
        (b"\x28\xb5\x2f\xfdrest", "a zstd archive"),
        (b"\x00" * 100, "null bytes"),
        (gzip.compress(b"PAR1rest", mtime=0), "parquet inside of gzip"),
    ],
)
@pytest.mark.parametrize("name", ["q.jsonl", "q.parquet", "q.csv", "q.json.gz"])
def test_what_is_no_data_is_refused_with_what_to_do(tmp_path: Path, content: bytes, found: str, name: str) -> None:
    with pytest.raises(DataError, match=found) as caught:
        values(write(tmp_path, content, name), bad_rows=BadRows("skip"))
    assert str(tmp_path / name) in str(caught.value)


def test_a_file_that_is_not_there_or_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Expected a data file at .*nowhere.jsonl, got no such file"):
        values(tmp_path / "nowhere.jsonl")
    with pytest.raises(DataError, match="Expected a data file, got the folder"):
        values(tmp_path)
    with pytest.raises(DataError, match="a device or a pipe"):
        values("/dev/null")
    with pytest.raises(DataError, match=r"Expected readable bytes .*name too long"):
        values(tmp_path / ("x" * 300))


def test_an_unreadable_file_is_refused_with_its_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, LINES)

    def refuse(self: Path, *args: Any, **kwargs: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)  # root may read everything, so permissions alone prove nothing
    with pytest.raises(DataError, match=r"Expected readable bytes at .*q\.jsonl:1, got .*Permission denied"):
        values(path)


def test_an_unknown_format_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Expected jsonl, .*got 'some words' at .*notes.txt:1\. .* set `format`"):
        values(write(tmp_path, "some words", "notes.txt"))


def test_a_damaged_gzip_file_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(LINES * 5000)
    for content in (whole[: len(whole) // 2], whole[:-4], whole[:10] + b"\xff" * 20, whole + b"garbage", whole[:12]):
        with pytest.raises(DataError, match=r"Expected readable bytes at .*q\.jsonl\.gz:\d+"):
            values(write(tmp_path, content, "q.jsonl.gz"), bad_rows=BadRows("skip"))


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    whole = parquet_bytes([{"a": "x" * i} for i in range(1000)], tmp_path)
    for content in (b"no parquet at all", whole[:-50], whole[:4], b"PAR1" + b"x" * 500 + b"PAR1"):
        with pytest.raises(DataError, match=r"Expected a parquet file, got .*q\.parquet:1"):
            values(write(tmp_path, content, "q.parquet"), bad_rows=BadRows("skip"))


def test_parquet_text_that_is_not_utf_8_is_refused_or_skipped(tmp_path: Path) -> None:
    column = pyarrow.array([b"x", b"\xff", b"y"]).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"a": column}), tmp_path / "q.parquet")
    with pytest.raises(DataError, match=r"Expected readable values, got .*utf-8.* at .*q\.parquet:2\."):
        values(tmp_path / "q.parquet")
    bad_rows = BadRows("skip")
    assert values(tmp_path / "q.parquet", bad_rows=bad_rows) == [{"a": "x"}, {"a": "y"}]
    assert bad_rows.count == 1


def test_parquet_whose_columns_have_unreadable_names_is_refused(tmp_path: Path) -> None:
    whole = parquet_bytes([{"name": "x"}], tmp_path)
    with pytest.raises(DataError, match=r"Expected a parquet file, got .*q\.parquet:1"):
        values(write(tmp_path, whole.replace(b"name", b"n\xffme"), "q.parquet"))


ODD_LINES = (
    b'{"a": 1}',
    b'  {"b": "x"}  ',
    b'{"a": 1}, {"a": 2}',  # two objects on one line ...
    b'{"a": [{}',  # ... and one object on two lines
    b"{}]}",
    b'{"a": 1, "a": 2}',
    b'{"a": {"b": 1, "b": 2}}',
    b'{"a" : 1, "a" :2}',
    b'{"a": "say \\"x\\": y"}',
    b'{"n": 123456789012345678901234567890}',
    b'{"n": 1.5e300, "m": -0.0}',
    b'{"n": NaN}',
    b'["a"]',
    b'"llds"',
    b'{"a": "\\ud800"}',
    b'{"a": "\xff"}',
    b"",
    b" \t ",
    b'{"a": {"b": [{"c": null}]}}',
)


def test_lines_that_are_parsed_together_are_read_as_each_would_be_alone(tmp_path: Path) -> None:
    def read(*lines: bytes) -> tuple[list[Any], list[str]]:
        path = tmp_path / "x.jsonl"
        path.write_bytes(b"\n".join(lines))
        bad_rows = BadRows("error")
        found = [(row.number, repr(row.values)) for row in read_rows(path, bad_rows=bad_rows, file_format="jsonl")]
        return found, [str(error) for error in bad_rows.named]

    alone: list[Any] = []
    refused: list[str] = []
    for number, line in enumerate(ODD_LINES, start=1):
        found, errors = read(*[b""] * (number - 1), line, b"")
        alone += found
        refused += errors
    for many in (ODD_LINES, (*ODD_LINES, *[b'{"a": 1}'] * 300)):
        found, errors = read(*many)
        assert found[: len(alone)] == alone
        assert errors == refused[:10]
        assert len(found) - len(alone) == len(many) - len(ODD_LINES)

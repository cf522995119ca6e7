"""What a stranger's file may do at most: each of these filled the memory, or never ended."""

import gzip
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import yaml

from llds.errors import DataError
from llds.files import bounds, file_hash, read_rows
from llds.files.bounds import check_yaml, read_bytes

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def packed(path: Path, part: bytes, times: int) -> Path:
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(times):
            file.write(part)
    return path


@pytest.mark.parametrize("name", ["q.jsonl.gz", "q.json.gz", "q.csv.gz"])
def test_a_gzip_bomb_is_refused_before_it_fills_the_memory(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "_MAX_LINE_BYTES", 1 << 20)
    monkeypatch.setattr(read_bytes, "__defaults__", (1 << 20,))
    start = {"q.jsonl.gz": b'{"question": "', "q.json.gz": b'[{"question": "', "q.csv.gz": b"question,"}[name]
    path = packed(tmp_path / name, start + b"x" * ((1 << 20) - len(start)), 40)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"at most 1,048,576 bytes"):
        list(read_rows(path))
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_a_table_of_very_many_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text(",".join(f"c{n}" for n in range(100_000)) + "\n")
    with pytest.raises(DataError, match=r"at most 10,000 columns, got 100,000 at .*q\.csv:1"):
        list(read_rows(tmp_path / "q.csv"))
    pyarrow.parquet.write_table(pyarrow.table({f"c{n}": [1] for n in range(10_001)}), tmp_path / "q.parquet")
    with pytest.raises(DataError, match=r"at most 10,000 columns, got 10,001"):
        list(read_rows(tmp_path / "q.parquet"))


@pytest.mark.parametrize("read", [file_hash, read_bytes, lambda path: list(read_rows(path))])
def test_a_pipe_is_refused_at_once(tmp_path: Path, read: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "q.jsonl")
    with pytest.raises(DataError, match=r"q\.jsonl, which is a device or a pipe\. Write it to a file first\."):
        read(tmp_path / "q.jsonl")
    with pytest.raises(DataError, match="a device or a pipe"):
        read(Path("/dev/zero"))


@pytest.mark.parametrize(
    "text", [BOMB, "a: &a [*a]", "- " * 5000 + "x", "a" * (3 << 20)], ids=["aliases", "circle", "depth", "length"]
)
def test_yaml_that_says_more_than_it_shows_is_refused(text: str) -> None:
    with pytest.raises(DataError, match=r"values|3,145,728 characters"):
        check_yaml(text)


def test_yaml_with_aliases_as_people_write_them_is_fine() -> None:
    check_yaml("base: &base {a: 1}\nmine: {<<: *base, b: [*base, *base]}\n")
    check_yaml("")
    with pytest.raises(yaml.YAMLError):
        check_yaml("a: [")

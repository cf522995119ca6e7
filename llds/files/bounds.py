"""How much of a file is read at most: what a stranger sends may be made to fill the memory, or never to end.

A pipe has no end, a gzip file of megabytes unpacks to gigabytes, and a YAML file of ten lines says a thousand million
things by aliases of aliases. All of them are refused in one sentence.
"""

import io
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import yaml

from llds.errors import DataError
from llds.files.formats import open_bytes
from llds.paths import where_looked

MAX_COLUMNS = 10_000
"""Of a table."""
_MAX_LINE_BYTES = 64 << 20
_MAX_TEXT_BYTES = 1 << 30
_PART_BYTES = 1 << 20
_MAX_YAML_VALUES = 1_000_000
_MAX_YAML_CHARACTERS = 2 << 20  # YAML is read a character at a time; a run's config.yaml has some ten thousand


def check_is_file(file: Path) -> None:
    """Refuse what is no ordinary file.

    Args:
        file: Where it should be.

    Raises:
        DataError: If there is nothing, a folder, a device or a pipe.
        OSError: If it cannot be looked at.
    """
    if file.is_dir():
        raise DataError(f"Expected a data file, got the folder {file}. Name a file in it.")
    try:
        mode = file.stat().st_mode
    except (FileNotFoundError, ValueError):  # the latter for a null character in the name
        raise DataError(
            f"Expected a data file at {file}, got no such file. {where_looked(file)}Check the path."
        ) from None
    if not stat.S_ISREG(mode):
        raise DataError(f"Expected a data file, got {file}, which is a device or a pipe. Write it to a file first.")


def read_bytes(file: Path, limit: int = _MAX_TEXT_BYTES) -> bytes:
    """Return all bytes of a file, unpacked where it is packed with gzip.

    Args:
        file: The file.
        limit: Most bytes, unpacked.

    Raises:
        DataError: If it is no ordinary file, or holds more.
        OSError: If it cannot be read; EOFError, zlib.error: if it is damaged.
    """
    check_is_file(file)
    data = io.BytesIO()
    with open_bytes(file) as stream:
        while part := stream.read(_PART_BYTES):
            data.write(part)
            if data.tell() > limit:
                raise DataError(
                    f"Expected at most {limit:,} bytes in {file}, unpacked, got more. Split it, or convert it to jsonl."
                )
    return data.getvalue()


def read_lines(stream: BinaryIO, file: Path) -> Iterator[bytes]:
    """Yield the lines of a file, with their ends.

    Args:
        stream: The file, open and unpacked.
        file: Its name, for messages.

    Raises:
        DataError: If a line is unreasonably long.
    """
    number = 0
    while line := stream.readline(_MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > _MAX_LINE_BYTES:
            raise _too_long(file, number)
        yield line


def read_many_lines(stream: BinaryIO, file: Path) -> Iterator[list[bytes]]:
    """Yield the lines of a file without their ends, many at a time: in a quarter of the time of `read_lines`.

    Args:
        stream: The file, open and unpacked.
        file: Its name, for messages.

    Raises:
        DataError: If a line is unreasonably long.
    """
    number, rest = 0, b""
    while block := cast(io.BufferedIOBase, stream).read1(
        _PART_BYTES
    ):  # what is there, where the next bytes are damaged
        lines = (rest + block).split(b"\n")
        if len(lines[0]) > _MAX_LINE_BYTES:
            raise _too_long(file, number + 1)
        rest = lines.pop()
        number += len(lines)
        yield lines
    yield [rest]


def _too_long(file: Path, number: int) -> DataError:
    return DataError(
        f"Expected lines of at most {_MAX_LINE_BYTES:,} bytes, got a longer one at {file}:{number}. "
        "Check how the file was made; it may have lost its line ends."
    )


def check_yaml(text: str) -> None:
    """Refuse YAML that is longer, or whose aliases stand for more values, than any configuration, before it is read.

    Args:
        text: The text.

    Raises:
        DataError: If it is too long, or an alias stands for what it is a part of.
        yaml.YAMLError: If it is no YAML.
    """
    if len(text) > _MAX_YAML_CHARACTERS:
        raise DataError(f"{len(text):,} characters, where a configuration has at most {_MAX_YAML_CHARACTERS:,}")
    sizes: dict[int, float] = {}

    def size(node: yaml.Node) -> float:
        if id(node) not in sizes:
            sizes[id(node)] = float("inf")  # until its parts are counted: a part that asks is the whole again
            parts = [one for pair in node.value for one in pair] if isinstance(node, yaml.MappingNode) else node.value
            sizes[id(node)] = 1 + (0 if isinstance(node, yaml.ScalarNode) else sum(map(size, parts)))
        return sizes[id(node)]

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        values = size(root) if root is not None else 0
    except RecursionError:
        raise DataError("values that are nested too deep") from None
    if values > _MAX_YAML_VALUES:
        raise DataError(f"more than {_MAX_YAML_VALUES:,} values by its aliases (`*name`)")

"""JSON as rows: one object per line, or a list of objects."""

import json
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from llds.errors import DataError
from llds.files.bounds import read_bytes, read_many_lines
from llds.files.formats import open_bytes
from llds.files.rows import BadRows, Row, new_row, reason, shorten

_SPACES = b" \t\r\n"
_DIGITS_TO_0 = bytes(ord("0") if chr(byte).isdecimal() and byte < 128 else ord(" ") for byte in range(256))
_LONG_NUMBER = b"0" * 19  # may be over 64 bits
_LARGE = 2.0**63
_WORD = secrets.token_hex(8)
_BETWEEN = b',"%b",' % _WORD.encode()
_BATCH_LINES = 128
_SPACE = re.compile(r"[ \t\r\n]*")


def read_jsonl(file: Path, bad_rows: BadRows) -> Iterator[Row]:
    """Yield the objects of a file with one per line; empty lines are skipped.

    Args:
        file: The file.
        bad_rows: Takes the lines that are none.
    """
    name = str(file)
    with open_bytes(file) as stream:
        for numbers, lines in _batches(stream, file):
            parsed = _together(lines)
            if parsed is None:
                yield from _one_by_one(zip(numbers, lines, strict=True), name, bad_rows)
            else:
                origins = [f"{name}:{number}" for number in numbers]
                yield from map(new_row, zip(origins, numbers, parsed, strict=True))


def _batches(stream: BinaryIO, file: Path) -> Iterator[tuple[Sequence[int], list[bytes]]]:
    """Numbers and bytes of lines that are not empty: not so many that one odd line in each spoils the most of them."""
    number = 1
    for lines in read_many_lines(stream, file):
        if number == 1 and lines:
            lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")  # the byte-order mark is no part of the data
        for start in range(0, len(lines), _BATCH_LINES):
            batch = lines[start : start + _BATCH_LINES]
            numbers: Sequence[int] = range(number, number + len(batch))
            number += len(batch)
            if not all(batch) or any(map(bytes.isspace, batch)):
                numbers = [one for one, line in zip(numbers, batch, strict=True) if line.strip()]
                batch = [line for line in batch if line.strip()]
            if batch:
                yield numbers, batch


def _together(lines: list[bytes]) -> list[dict[str, Any]] | None:
    """The objects of many lines, parsed as one list; None where one of the lines may be none, or must be looked at.

    Between the lines stands a word that no file can know, so that no two lines that are broken alike pass for whole.
    """
    text = _BETWEEN.join(lines)
    try:
        values = orjson.loads(b"[%b]" % text)
    except orjson.JSONDecodeError:
        return None
    objects = values[::2]
    if len(objects) != len(lines) or values[1::2] != [_WORD] * (len(lines) - 1) or {dict} != set(map(type, objects)):
        return None
    has_parts = text.count(b"{") > len(lines)
    has_long_number = _LONG_NUMBER in text.translate(_DIGITS_TO_0)
    if has_parts or has_long_number or _count_names(text) != sum(map(len, objects)):
        return objects if all(map(_is_strict, lines, objects)) else None
    return objects


def _one_by_one(lines: Iterable[tuple[int, bytes]], name: str, bad_rows: BadRows) -> Iterator[Row]:
    """The objects of lines of which one is none, or not as strict as we are."""
    for number, line in lines:
        origin = f"{name}:{number}"
        try:
            row = Row(origin, number, _parse_line(line, origin))
        except DataError as error:
            bad_rows.take(error)
        else:
            yield row


def read_json(file: Path, bad_rows: BadRows) -> Iterator[Row]:
    """Yield the objects of a list; of an object that holds one list of objects (``{"data": [...]}``), those.

    Only the text is held in memory: objects are parsed one by one.

    Args:
        file: The file.
        bad_rows: Takes the items that are no objects.
    """
    text = _read_text(file)
    start = _after_space(text, 0)
    if start == len(text):
        return
    items = _items(text, start, file) if text[start] == "[" else _items_of_object(text, start, file)
    for number, values in enumerate(items, start=1):
        origin = f"{file}:{number}"
        if isinstance(values, dict):
            yield Row(origin, number, values)
        else:
            message = f"Expected a list of JSON objects, got {shorten(values)} at {origin}. Correct or remove the item."
            bad_rows.take(DataError(message))


def _parse_line(line: bytes, origin: str) -> dict[str, Any]:
    detail = ""
    try:
        values = _quickly(line)
        if values is None:
            values = _DECODER.decode(line.decode())
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        values, detail = None, f" ({reason(error)})"
    if not isinstance(values, dict):
        raise DataError(
            f"Expected one JSON object per line, got {shorten(line)} at {origin}{detail}. Correct or remove the line."
        )
    return values


def _quickly(line: bytes) -> dict[str, Any] | None:
    """What orjson reads in a tenth of the time; None where it could read less strictly than we do."""
    try:
        values = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return values if isinstance(values, dict) and _is_strict(line, values) else None


def _is_strict(line: bytes, values: dict[str, Any]) -> bool:
    """Whether orjson read an object as it stands there.

    It takes the last of several members of one name, and makes a float of a whole number over 64 bits.
    """
    names = 0
    rest: list[Any] = [values]
    while rest:
        one = rest.pop()
        if type(one) is dict:
            names += len(one)
            one = one.values()
        for part in one:
            kind = type(part)
            if kind is dict or kind is list:
                rest.append(part)
            elif kind is float and abs(part) >= _LARGE:
                return False
    return _count_names(line) == names


def _count_names(text: bytes) -> int:
    """How many members' names end in a text, or what looks like it in another text: never fewer than names."""
    return text.translate(None, _SPACES).count(b'":')


def _read_text(file: Path) -> str:
    data = read_bytes(file)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"Expected UTF-8 text, got {reason(error)} in line {line} at {file}:{line}. Save it as UTF-8."
        ) from error


def _items(text: str, start: int, file: Path) -> Iterator[Any]:
    """The items of the list that begins at ``start``; what is wrong in its syntax is an error at its item."""
    position, number = _after_space(text, start + 1), 0
    while text[position : position + 1] != "]" or number:
        number += 1
        value, position = _decode(text, position, f"{file}:{number}")
        yield value
        position = _after_space(text, position)
        mark = text[position : position + 1]
        if mark == "]":
            break
        if mark != ",":
            raise _damaged(f"`,` or `]` after item {number}", text, position, f"{file}:{number}")
        position = _after_space(text, position + 1)
    end = _after_space(text, position + 1)
    if end < len(text):
        raise _damaged("nothing after the list", text, end, f"{file}:{number + 1}")


def _items_of_object(text: str, start: int, file: Path) -> list[Any]:
    """The one list of objects that the object at ``start`` holds; without such a list, the object itself."""
    value, end = _decode(text, start, f"{file}:1")
    if _after_space(text, end) < len(text):
        raise _damaged("one object per line, or one object in all", text, _after_space(text, end), f"{file}:2")
    members = value.values() if isinstance(value, dict) else ()
    lists = [member for member in members if isinstance(member, list) and member and isinstance(member[0], dict)]
    return lists[0] if len(lists) == 1 else [value]


def _decode(text: str, position: int, origin: str) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, position)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"Expected valid JSON, got {shorten(text[position : position + 100])} at {origin} ({reason(error)}). "
            "Copy the file again, or correct it."
        ) from error


def _damaged(expected: str, text: str, position: int, origin: str) -> DataError:
    return DataError(
        f"Expected {expected}, got {shorten(text[position : position + 100]) if position < len(text) else 'the end'} "
        f"at {origin}. Copy the file again, or correct it."
    )


def _after_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {shorten(next(n for n in names if names.count(n) > 1))} twice in one object")
    return values


def _no_number(literal: str) -> Any:
    raise ValueError(f"{literal}, which is no JSON number")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_number)

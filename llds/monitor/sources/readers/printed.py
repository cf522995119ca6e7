"""Metrics that a training prints for people: tables, blocks under a heading, fields between bars."""

import re
from collections.abc import Iterator, Sequence

from llds.monitor.sources.vocabulary import Record, as_number

_HEADING = re.compile(r"(?i)=+ *step (\d+)/\d+ *=+|\btrain step (\d+)/\d+ done\b")
"""Of NeMo-RL and AReaL."""
_BULLET = re.compile(r"^\s*[•-] ([A-Z][\w@. ]*): (-?[\d.]+(?:e[+-]?\d+)?|-?inf|nan)\s*$", re.MULTILINE | re.IGNORECASE)
_CELLS = re.compile(r"[│|]\s*([a-z][\w./-]*/[\w./-]*)\s*[│|]\s*([\d.e+-]+|-?inf|nan)\s*(?=[│|])", re.IGNORECASE)
_FIELDS = re.compile(r"(?i)\b(?:step|iteration)\s+(\d+)(?:/\s*\d+)?\s*\|(.*)")
_FIELD = re.compile(r"\s*([A-Za-z][\w.()/ -]*?):\s*(-?[\d.]+(?:e[+-]?\d+)?|-?inf|nan)(?![\w.])[^|]*", re.IGNORECASE)
_PLAIN = {"training loss": "loss"}


def fields_between_bars(text: str) -> list[Record]:
    """Lines ``Step 3 | Reward: 0.5 | ...`` of prime-rl, ``iteration 3/100 | reward: 5.0E-01 | ...`` of Megatron."""
    found: list[Record] = []
    for line in text.splitlines():
        if match := _FIELDS.search(line):
            fields = (_FIELD.match(part) for part in match[2].split("|"))
            found.append({"step": match[1], **{field[1]: field[2] for field in fields if field}})
    return [one for one in found if len(one) > 2]


def blocks(text: str) -> list[Record]:
    """Figures in lines or cells of their own, after a heading with the step."""
    headings = list(_HEADING.finditer(text))
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    found: list[Record] = []
    for heading, end in zip(headings, ends, strict=False):
        part = text[heading.end() : end]
        values = dict([*_BULLET.findall(part), *_CELLS.findall(part)])
        found += [{"step": heading[1] or heading[2], **values}] if values else []
    return found


def text_tables(text: str) -> list[Record]:
    """The longest table of lines whose cells are parted by bars or tabs, with a column of steps."""
    return max(_tables(text.splitlines()), key=len, default=[])


def table_records(table: Sequence[Sequence[str]]) -> list[Record]:
    """The rows of a table that has a heading with a column of steps, by its columns' names."""
    if not table or not any(name.strip().lower() == "step" for name in table[0]):
        return []
    head = [_plain(name) for name in table[0]]
    return [dict(zip(head, row, strict=False)) for row in table[1:]]


def _tables(lines: Sequence[str]) -> Iterator[list[Record]]:
    """One for each heading: the lines below it that have a step."""
    for at, line in enumerate(lines):
        head = _cells(line)
        if len(head) < 2 or head[0].lower() != "step":
            continue
        rows = []
        for below in lines[at + 1 :]:
            cells = _cells(below)
            if set(below) <= set("|-: \t"):
                continue
            if as_number(cells[0]) is None:
                break
            rows.append(cells)
        yield table_records([head, *rows])


def _cells(line: str) -> list[str]:
    parts = line.strip().strip("|").split("|") if "|" in line else line.split("\t")
    return [part.strip() for part in parts]


def _plain(name: str) -> str:
    """The column's name as it is logged elsewhere: notebooks put spaces around slashes and change capitals."""
    plain = name.replace(" / ", "/").strip().lower()
    return _PLAIN.get(plain, plain)

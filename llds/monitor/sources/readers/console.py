"""Console logs: verl's lines ``step:N - key:value - ...`` and the dictionaries that TRL prints."""

import ast
import re
from collections.abc import Sequence

from llds.monitor.sources.vocabulary import Record, as_number

_STEP = re.compile(r"(?:^|\s)step:(\d+) - ")
_VALUE = re.compile(r"([\w@./%+-]+):(?:np\.\w+\()?(-?(?:\d[\d.]*(?:[eE][+-]?\d+)?|inf|nan))")
_DICTIONARY = re.compile(r"\{['\"][^{}]*\}")
_WRAPPED = re.compile(r"\b(?:np\.\w+|tensor)\(([^(),]*)[^()]*\)")
_NO_LITERAL = re.compile(r"(?<=[\s:])(-?(?:nan|inf))(?=\s*[,}])")
_SUMMARY = "train_runtime"
"""Only the last dictionary of a TRL run has it: means over the run."""


def from_console(text: str) -> list[Record]:
    """The records of a console log; empty where it has none.

    Args:
        text: Whole output of a training, whatever else is in it.
    """
    return _lines_of_verl(text) or _dictionaries_of_trl(text)


def _lines_of_verl(text: str) -> list[Record]:
    matches = [(line, match) for line in text.splitlines() if (match := _STEP.search(line))]
    return [{"step": match[1], **dict(_VALUE.findall(line[match.end() :]))} for line, match in matches]


def _dictionaries_of_trl(text: str) -> list[Record]:
    """Values may be numbers, numbers in strings, or a bare nan; the step is not printed, so the order counts."""
    found = [_literal(match[0]) for match in _DICTIONARY.finditer(text)]
    return _last_of_each([one for one in found if ("loss" in one or "reward" in one) and _SUMMARY not in one])


def _last_of_each(found: Sequence[Record]) -> list[Record]:
    """Without what a training printed that was resumed at an earlier point: there its epochs go back."""
    kept: list[tuple[float, Record]] = []
    for one in found:
        epoch = as_number(one.get("epoch"))
        epoch = kept[-1][0] if kept and epoch is None else epoch or 0.0
        if kept and epoch < kept[-1][0]:
            kept = [other for other in kept if other[0] < epoch]
        kept.append((epoch, one))
    return [one for _, one in kept]


def _literal(text: str) -> Record:
    """The dictionary that a text is; empty where it is none."""
    plain = _NO_LITERAL.sub(r"'\1'", _WRAPPED.sub(r"\1", text))
    try:
        value = ast.literal_eval(plain)
    except (ValueError, SyntaxError, RecursionError, MemoryError):  # the parser's word for too deep is the last
        return {}
    return {name: one for name, one in value.items() if isinstance(name, str)} if isinstance(value, dict) else {}

"""Console logs: verl's lines ``step:N - key:value - ...``, the dictionaries that TRL and others print, and tables."""

import ast
import re
from collections.abc import Sequence

from llds.monitor.sources.readers.printed import blocks, fields_between_bars, text_tables
from llds.monitor.sources.vocabulary import Record, as_number

_COLOR = re.compile(r"\x1b\[[\d;]*m")
_STEP = re.compile(r"(?:^|\s)step:(\d+) - ")
_VALUE = re.compile(
    r"([\w@./%+-]+):(?:np\.\w+\()?(-?(?:\d[\d.]*(?:[eE][+-]?\d+)?|(?:inf|nan)(?![a-z])))", re.IGNORECASE
)
_DICTIONARY = re.compile(r"\{\s*['\"][^{}]*\}")
_WRAPPED = re.compile(r"\b(?:np\.\w+|tensor)\(([^(),]*)[^()]*\)")
_NO_LITERAL = re.compile(r"(?<=[\s:])(-?(?:nan|inf|infinity|null|true|false))(?=\s*[,}])", re.IGNORECASE)
_NUMBERED = re.compile(r"(?i)\b(rollout|perf|step)[ :]+(\d+):?\s*$")
"""Before a dictionary: slime's rollouts and steps, OpenRLHF's global steps."""
_REWARDS = {"reward", "mean_reward", "reward_mean", "avg_reward", "reward/mean", "objective/scores"}
_TELLING = {*_REWARDS, "loss", "policy_loss", "rollout/raw_reward", "rollout/rewards"}
"""Any of which metrics have, ``train/`` before it or not, and the settings that trainings print have not."""
_SUMMARY = "train_runtime"
"""Only the last dictionary of a TRL run has it: means over the run."""


def from_console(text: str) -> list[Record]:
    """The records of a console log; empty where it has none.

    Args:
        text: Whole output of a training, whatever else is in it.
    """
    text = _COLOR.sub("", text)
    kinds = (_lines_of_verl, _numbered_dictionaries, _dictionaries_of_trl, fields_between_bars, blocks, text_tables)
    return next((records for kind in kinds if (records := kind(text))), [])


def _lines_of_verl(text: str) -> list[Record]:
    matches = [(line, match) for line in text.splitlines() if (match := _STEP.search(line))]
    return [{"step": match[1], **dict(_VALUE.findall(line[match.end() :]))} for line, match in matches]


def _numbered_dictionaries(text: str) -> list[Record]:
    """What slime and OpenRLHF print; slime's training steps belong to the rollout before them."""
    found: list[tuple[str, int, Record]] = []
    for match in _DICTIONARY.finditer(text):
        number = _NUMBERED.search(text[max(0, match.start() - 40) : match.start()].rpartition("\n")[2])
        if number and (values := _literal(match[0])):
            found.append((number[1].lower(), int(number[2]), values))
    telling = sum(_tells(values) for _, _, values in found)
    if not telling or 2 * telling <= len(_dictionaries_of_trl(text)):  # some line that happens to end in a number
        return []
    has_rollouts, at = any(kind == "rollout" for kind, _, _ in found), 0
    records: list[Record] = []
    for kind, step, values in found:
        at = at if kind == "step" and has_rollouts else step
        records.append({**values, "step": at})
    return records


def _dictionaries_of_trl(text: str) -> list[Record]:
    """Values may be numbers, numbers in strings, or a bare nan; the step is not printed, so the order counts."""
    found = [_literal(match[0]) for match in _DICTIONARY.finditer(text)]
    return _last_of_each([one for one in found if _tells(one) and _SUMMARY not in one])


def _tells(record: Record) -> bool:
    return any(name.removeprefix("train/") in _TELLING for name in record)


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

"""Rows as prompts: finds the question and its gold answers, and refuses a row that has none.

Stands between `llds.files`, which knows formats, and the template, which makes tokens. Here is what the public data
sets call things; what a column may hold is in `llds.data.columns`.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice, repeat
from typing import Any

from llds.data.columns import MAX_CHARS, find_column, find_optional_column, read_text, refuse
from llds.data.prompt_table import PromptRow, new_prompt_row
from llds.data.source import DataSource
from llds.errors import DataError
from llds.files import BadRows, Row
from llds.files.rows import is_array_repr, is_unicode

# In the order in which they are looked for. Dots reach into nested columns.
QUESTION_COLUMNS = ("question", "extra_info.question", "query", "prompt", "problem", "Question")
ANSWER_COLUMNS = ("golden_answers", "reward_model.ground_truth", "answers", "answer", "possible_answers", "Answer")
ALIAS_COLUMN = "answer_aliases"  # MuSiQue: more answers, next to `answer`
ID_COLUMNS = ("id", "_id", "idx", "qid", "question_id", "extra_info.index")
DATA_SOURCE_COLUMNS = ("data_source",)

_KEYS_OF_ANSWERS = ("target", "value", "text", "aliases")  # Search-R1; TriviaQA's value and aliases; SQuAD
_BOOLEANS = {True: ["yes", "true"], False: ["no", "false"]}  # StrategyQA, BoolQ; a policy may say either
_INSTRUCTIONS = ("<answer>", "</answer>", "<search>")  # a question says none of these; a whole prompt does
_CONTAINER = re.compile(  # a list or a mapping that begins with a text or with another of them; an empty list; a tuple
    r"""\s*(\[\s*["'\[{].*\]|\{\s*["'].*\}|\[\s*\]|\(\s*(["']).*\2\s*,(.*\2)?\s*\))\s*""", re.DOTALL
)
_AFTER_WORKING = re.compile(r".*\n#### *(\S.*)", re.DOTALL)  # GSM8K's answers: the working, then #### 7
_MESSAGES = re.compile(r"""\s*\[\s*\{\s*"(role|content)"\s*:""")
_OPENINGS = ("[", "{", "(", "array(", "np.", "numpy.")  # of what holds answers or messages
_BETWEEN = "\x00"  # which no text may hold
_FEW = 8
"""Rows that are not worth a look at all of them together."""
_MOST_SHAPES = 100
_ANSWERS = "a string, a number or a list of them as gold answers"


def prompt_from_row(row: Row, source: DataSource) -> PromptRow:
    """Make a prompt of a row.

    Args:
        row: The row.
        source: Names of its columns.

    Raises:
        DataError: If a column is missing or holds something else than it must.
    """
    return PromptRow(
        prompt_id=_prompt_id(row, source),
        question=_question(row, source),
        golden_answers=_golden_answers(row, source),
        data_source=source.name or _data_source(row, source),
        messages=_chat(row, source),
        origin=row.origin,
        row=_columns(row, source),
    )


class PromptMaker:
    """Makes prompts of the rows of a source: of many rows of the usual shape in a sixth of the time, with one result.

    Usual is a question that is a text, gold answers that are a text or a list of texts, and nothing in them that must
    be looked at. It is looked for in many rows at once; where one is odd, in each half of them; and the few that are
    left go to `prompt_from_row`, which knows what is wrong with a row.

    Args:
        source: Names of the columns.
    """

    def __init__(self, source: DataSource) -> None:
        self._source = source
        self._is_plain = source.question_pattern is None and source.messages_field is None and source.row_fields is None
        self._name = source.name or source.file_stem
        self._separator = source.answer_separator
        self._columns: dict[tuple[str, ...], _UsualColumns | None] = {}

    def __call__(self, rows: Sequence[Row], bad_rows: BadRows) -> list[PromptRow]:
        """Make prompts of rows, in their order.

        Args:
            rows: The rows.
            bad_rows: Takes those that `prompt_from_row` refuses.
        """
        if len(rows) <= _FEW:
            return list(self._exactly(rows, bad_rows))
        usual = self._usual(rows)
        if usual is None:
            half = len(rows) // 2
            return self(rows[:half], bad_rows) + self(rows[half:], bad_rows)
        return usual

    def _exactly(self, rows: Sequence[Row], bad_rows: BadRows) -> Iterator[PromptRow]:
        for row in rows:
            try:
                prompt = prompt_from_row(row, self._source)
            except DataError as error:
                bad_rows.take(error)
            else:
                yield prompt

    def _usual(self, rows: Sequence[Row]) -> list[PromptRow] | None:
        """The prompts of rows of the usual shape, with the same columns; None if one of them is odd."""
        if not self._is_plain:
            return None
        origins, numbers, values = zip(*rows, strict=True)
        names = set(map(tuple, values))
        columns = self._columns_of(names.pop())
        if columns is None or names:
            return None
        question, answer, prompt_id, data_source = columns
        questions = _plain([one[question] for one in values])
        golds = self._plain_answers([one[answer] for one in values])
        ids = _plain(_as_texts([one[prompt_id] for one in values] if prompt_id else numbers))
        sources = _plain([one[data_source] for one in values]) if data_source else [self._name] * len(rows)
        if questions is None or golds is None or ids is None or sources is None:
            return None
        return list(
            map(new_prompt_row, zip(ids, questions, golds, sources, repeat(None), origins, values, strict=False))
        )

    def _columns_of(self, names: tuple[str, ...]) -> "_UsualColumns | None":
        if names not in self._columns:
            self._columns[names] = self._usual_columns(names)
        return self._columns[names]

    def _usual_columns(self, names: tuple[str, ...]) -> "_UsualColumns | None":
        """The columns of rows with these names; None where they must be looked for in each row."""
        source = self._source
        if isinstance(source.answer_field, list) or len(self._columns) > _MOST_SHAPES or ALIAS_COLUMN in names:
            return None
        question = _usual_column(names, source.question_field, QUESTION_COLUMNS)
        answer = _usual_column(names, source.answer_field, ANSWER_COLUMNS)
        prompt_id = _usual_column(names, source.id_field, ID_COLUMNS)
        name = "" if source.name else _usual_column(names, source.data_source_field, DATA_SOURCE_COLUMNS)
        if not question or not answer or prompt_id is None or name is None:
            return None
        return question, answer, prompt_id, name

    def _plain_answers(self, golds: list[Any]) -> list[tuple[str, ...]] | None:
        """The answers of each row, each once; None if one of them is odd."""
        kinds = set(map(type, golds))
        if kinds == {str}:
            texts = None if self._separator in "".join(golds) else _plain(golds)
            return None if texts is None else [(text,) for text in texts]
        if kinds != {list} or not all(golds):
            return None
        texts = _plain(list(chain.from_iterable(golds)))
        if texts is None:
            return None
        if len(texts) == len(golds):
            return [(text,) for text in texts]
        rest = iter(texts)
        return [tuple(dict.fromkeys(islice(rest, len(gold)))) for gold in golds]


_UsualColumns = tuple[str, str, str, str]
"""Columns of question, answers, id and data set's name; the last two may be empty, which is none."""


def _usual_column(names: tuple[str, ...], field: str | None, usual: Sequence[str]) -> str | None:
    """The column at the top of a row that is looked for; empty where there is none, None where it may lie deeper."""
    for name in usual if field is None else (field,):
        if name in names:
            return name
        if name.partition(".")[0] in names or field is not None:
            return None
    return ""


def _as_texts(ids: Sequence[Any]) -> list[Any]:
    """Ids, those that are whole numbers as texts."""
    return [str(one) if type(one) is int else one for one in ids]


def _plain(values: Sequence[Any]) -> list[str] | None:
    """Texts without white space around them; None if one of them is none, is empty, or must be looked at."""
    if set(map(type, values)) != {str}:
        return None
    together = _BETWEEN.join(values)
    if "<" in together or "####" in together or together.count(_BETWEEN) >= len(values) or not is_unicode(together):
        return None
    texts = [value.strip() for value in values]
    if not all(texts) or max(map(len, values)) > MAX_CHARS:
        return None
    has_opening = any(opening in together for opening in _OPENINGS)
    return None if has_opening and any(text.startswith(_OPENINGS) for text in texts) else texts


def _columns(row: Row, source: DataSource) -> Mapping[str, Any]:
    """The columns that tools and rewards can read."""
    if source.row_fields is None:
        return row.values
    return {name: find_column(row, name, "row_fields", ())[0] for name in source.row_fields}


def _question(row: Row, source: DataSource) -> str:
    value, column = find_column(row, source.question_field, "question_field", QUESTION_COLUMNS)
    value = _messages_in_text(value)
    if isinstance(value, list):  # chat messages: the question is what the user said last
        said = [message["content"] for message in _messages(value, row, column) if message["role"] == "user"]
        value = said[-1] if said else None
    text = read_text(value, row, column, "a question")
    if is_array_repr(text):
        raise refuse(row, column, "a question or a list of chat messages (inside of a string as JSON)", text)
    if source.question_pattern is not None:
        found = re.search(source.question_pattern, text, re.DOTALL)
        return read_text(found and found[1], row, column, f"a question that matches {source.question_pattern!r}")
    if source.messages_field is None and "<" in text and any(tag in text for tag in _INSTRUCTIONS):
        raise DataError(
            f"Expected a question in column `{column}`, got instructions around it (they speak of <answer> or "
            f"<search>) at {row.origin}. Set `question_pattern`, for example to 'Question: (.*)', or `messages_field` "
            "to use them instead of the template."
        )
    return text


def _golden_answers(row: Row, source: DataSource) -> tuple[str, ...]:
    fields = [source.answer_field] if isinstance(source.answer_field, str | None) else source.answer_field
    found = [find_column(row, field, "answer_field", ANSWER_COLUMNS) for field in fields]
    if found[0][1] == "answer" and source.answer_field is None and row.values.get(ALIAS_COLUMN):
        found.append((row.values[ALIAS_COLUMN], ALIAS_COLUMN))
    answers = [answer for value, column in found for answer in _answers(value, row, column, source)]
    if not answers:
        raise refuse(row, found[0][1], "a gold answer that is not empty", found[0][0])
    return tuple(dict.fromkeys(answers) if len(answers) > 1 else answers)


def _answers(value: Any, row: Row, column: str, source: DataSource) -> list[str]:
    """The answers in a value of a column: a scalar, a record of answers, a list of these, or a text that holds them."""
    if isinstance(value, str):
        value = _in_text(value, row, column, source)
    items = value if isinstance(value, list) else [value]
    return [answer for item in items for answer in _answers_of_item(item, row, column, source)]


def _answers_of_item(item: Any, row: Row, column: str, source: DataSource) -> list[str]:
    if isinstance(item, str):
        if _is_container(item):  # a list whose items were written as text, one by one
            return _answers(item, row, column, source)
        found = _AFTER_WORKING.fullmatch(item)
        return [read_text(found[1] if found else item, row, column, _ANSWERS)] if item.strip() else []
    if isinstance(item, bool):
        return _BOOLEANS[item]
    if isinstance(item, int):
        return [str(item)]
    if isinstance(item, float) and math.isfinite(item):  # pandas makes 1929.0 of 1929 beside an empty cell
        return [str(int(item)), str(item)] if item.is_integer() else [str(item)]
    parts = [item[key] for key in _KEYS_OF_ANSWERS if key in item] if isinstance(item, Mapping) else []
    if not parts:
        raise refuse(row, column, _ANSWERS, item)
    return [answer for part in parts for answer in _answers(part, row, column, source)]


def _in_text(text: str, row: Row, column: str, source: DataSource) -> Any:
    """What a text holds: a list or a record that is written as JSON (PopQA, csv), or answers between separators."""
    if not _is_container(text):
        return text.split(source.answer_separator)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        # Python's or numpy's way to write a list, which would otherwise be one long answer that nobody can give
        expected = f"{_ANSWERS} (a list inside of a string is written as JSON)"
        raise refuse(row, column, expected, text) from None


def _is_container(text: str) -> bool:
    """Whether a text is how something that holds answers is written, be it readable or not."""
    return is_array_repr(text) or _CONTAINER.fullmatch(text) is not None


def _prompt_id(row: Row, source: DataSource) -> str:
    value, column = find_optional_column(row, source.id_field, "id_field", ID_COLUMNS)
    if not column:
        return str(row.number)
    return str(value) if _is_whole_number(value) else read_text(value, row, column, "a string or a whole number as id")


def _is_whole_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _data_source(row: Row, source: DataSource) -> str:
    value, column = find_optional_column(row, source.data_source_field, "data_source_field", DATA_SOURCE_COLUMNS)
    if not column:
        return source.file_stem
    return read_text(value, row, column, "the name of a data set")


def _chat(row: Row, source: DataSource) -> tuple[Mapping[str, str], ...] | None:
    if source.messages_field is None:
        return None
    value, column = find_column(row, source.messages_field, "messages_field", ())
    return _messages(_messages_in_text(value), row, column)


def _messages_in_text(value: Any) -> Any:
    """Chat messages that stand as JSON in a text, as tables hold them; any other value as it is."""
    if not isinstance(value, str) or not _MESSAGES.match(value):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _messages(value: Any, row: Row, column: str) -> tuple[Mapping[str, str], ...]:
    expected = "a list of chat messages with `role` and `content`"
    if not isinstance(value, list) or not value:
        raise refuse(row, column, expected, value)
    for message in value:
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise refuse(row, column, expected, message)
        for part in ("role", "content"):
            read_text(message[part], row, column, expected)
    return tuple({"role": message["role"], "content": message["content"]} for message in value)

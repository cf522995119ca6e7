"""Where prompts come from: one file, the names of its columns, and which of its rows are used.

A value for configuration files; `llds.files` reads the bytes, `llds.data.prompts` makes prompts of the rows and
`llds.data.source_reader` chooses among them.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llds.errors import ConfigurationError
from llds.files import FileFormat, OnBadRow
from llds.files.hub_data import name_of_data

ANSWER_SEPARATOR = "<|answer_split|>"


@dataclass(frozen=True)
class DataSource:
    """One file of questions with gold answers.

    A column that is not named is found by its usual names (docs/data.md lists them); a column that is named must be
    there. Dots reach into nested columns. Rows are read, filtered, shuffled and cut to the limit, in this order.

    Args:
        path: A jsonl, json, csv or tsv file (also in gzip) or a parquet file; ``llds:...`` for one inside the package;
            ``hf://datasets/OWNER/NAME[@REVISION][/SPLIT or FILE]`` for what the hub has by name.
        limit: Number of questions that are used; None is all.
        shuffle: Whether the questions are shuffled before the limit is applied: with it, a random sample. (Training
            prompts are shuffled anew in each pass anyway: ``data.shuffle``.)
        seed: Seed of that order.
        weight: Relative share of this source among the training prompts; give all sources of a list one, or none.
        name: Name of the data set, instead of the one in the rows or else the file's stem.
        data_sources: The data sets of a merged file that are used, by their names in it: a list, or a mapping to the
            names that results carry. None is all.
        answers_in: A corpus file: questions of whose gold answers none occurs in its passages are left out.
        on_bad_row: ``error`` stops at the first malformed row; ``skip`` leaves malformed rows out and says how many.
        question_field: Column of the question; of chat messages, the last of the user counts.
        question_pattern: Regular expression whose first group is the question, where the column holds more than it,
            such as ``Question: (.*)``.
        answer_field: Column of the gold answers, or several whose answers are joined: a string or a list of strings.
        id_field: Column of the prompt's id; rows without one are numbered.
        data_source_field: Column of the data set's name.
        messages_field: Column of chat messages that replace the prompt template where that is a chat template; None
            uses the template for every row.
        row_fields: Columns that ``prompt.row`` holds for tools and rewards; None is all of them.
        answer_separator: What divides the gold answers inside a string.
        format: The file's format, instead of the one that its content shows.

    Raises:
        ConfigurationError: If a value cannot work.
    """

    path: str
    limit: int | None = None
    shuffle: bool = False
    seed: int = 0
    weight: float | None = None
    name: str | None = None
    data_sources: list[str] | dict[str, str] | None = None
    answers_in: str | None = None
    on_bad_row: OnBadRow = "error"
    question_field: str | None = None
    question_pattern: str | None = None
    answer_field: str | list[str] | None = None
    id_field: str | None = None
    data_source_field: str | None = None
    messages_field: str | None = None
    row_fields: list[str] | None = None
    answer_separator: str = ANSWER_SEPARATOR
    format: FileFormat | None = None

    def __post_init__(self) -> None:
        if not self.path or self.path.startswith(("{", "[")):
            raise ConfigurationError(
                f"Expected `path` of a data source to be a file, got {self.path!r}. In YAML, a space follows each "
                "colon: '{path: FILE, limit: 10}'."
            )
        if self.limit is not None and self.limit < 1:
            raise self._refuse("limit", "at least 1 question", self.limit, "Leave it out to use the whole file.")
        if self.weight is not None and not 0 < self.weight < float("inf"):
            raise self._refuse("weight", "a number above 0", self.weight, "Leave the source out to use none of it.")
        if not self.answer_separator:
            raise self._refuse(
                "answer_separator", "a non-empty string", "", f"Leave it out to use {ANSWER_SEPARATOR!r}."
            )
        if self.answer_field == []:
            raise self._refuse("answer_field", "at least one column", [], "Leave it out to find the column.")
        if self.data_sources is not None and not self.data_sources:
            raise self._refuse("data_sources", "at least one name", self.data_sources, "Leave it out to use all.")
        if self.question_pattern is not None and not _has_group(self.question_pattern):
            raise self._refuse(
                "question_pattern", "a regular expression with a group", self.question_pattern,
                "Write for example 'Question: (.*)'.",
            )  # fmt: skip

    @cached_property
    def file_stem(self) -> str:
        """The data set's name where nothing else names it."""
        return name_of_data(self.path)

    def _refuse(self, key: str, expected: str, value: Any, advice: str) -> ConfigurationError:
        return ConfigurationError(
            f"Expected `{key}` of data source {self.path} to be {expected}, got {value!r}. {advice}"
        )


def _has_group(pattern: str) -> bool:
    try:
        return re.compile(pattern).groups > 0
    except re.error:
        return False

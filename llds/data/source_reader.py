"""A data source as the prompts that are used of it, with a record of what was chosen and what was left out.

Stands above `llds.data.prompts`, which looks at one row at a time: here is what needs several, such as ids that occur
twice, the filter by corpus, and samples.
"""

import gc
import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, TypeVar

import numpy as np

from llds.data.corpus_filter import with_answer_in
from llds.data.prompt_table import PromptRow, PromptTable
from llds.data.prompts import PromptMaker
from llds.data.source import DataSource
from llds.errors import DataError
from llds.files import BadRows, Row, file_hash, read_rows
from llds.types import Prompt

SKIP_ADVICE = "`on_bad_row: skip` of the file leaves them out."
_AT_ONCE = 256
_ROW_BITS = 40
_Prompt = TypeVar("_Prompt", Prompt, PromptRow)
_Check = Callable[[Iterator[PromptRow], BadRows], Iterator[PromptRow]]


@dataclass(frozen=True)
class SourceQuestions:
    """What was read of a data source.

    Attributes:
        source: The source.
        prompts: The questions that are used, without token ids.
        sha256: Hash of the file's bytes.
        bad_rows: Counts the malformed rows that were left out.
        answers_in: What the filter by corpus did (``corpus_sha256``, ``with_answer``, ``without_answer``: numbers of
            questions); None without one.
    """

    source: DataSource
    prompts: PromptTable
    sha256: str
    bad_rows: BadRows
    answers_in: dict[str, Any] | None = None

    def describe(self) -> dict[str, Any]:
        """Everything that decides the questions, JSON-ready: for evaluation cards and manifests."""
        return {
            "path": self.source.path,
            "sha256": self.sha256,
            "questions": len(self.prompts),
            "questions_sha256": questions_hash(self.prompts),
            "data_sources": dict(Counter(self.prompts.column("data_source"))),
            "limit": self.source.limit,
            "shuffle_seed": self.source.seed if self.source.shuffle else None,
            "weight": self.source.weight,
            "answers_in": self.answers_in,
            "skipped_rows": self.bad_rows.count,
        }

    def notes(self) -> list[str]:
        """One line for each way in which questions were left out, for the screen."""
        lines = []
        if self.bad_rows.count:
            lines.append(
                f"{self.source.path}: skipped {_malformed(self.bad_rows.count)}; the first: {self.bad_rows.first}"
            )
        if self.answers_in is not None:
            kept, lost = self.answers_in["with_answer"], self.answers_in["without_answer"]
            lines.append(
                f"{self.source.path}: an answer of {kept:,} of {kept + lost:,} questions occurs in "
                f"{self.source.answers_in}"
            )
        return lines


def read_source(source: DataSource) -> SourceQuestions:
    """Read a data source.

    Args:
        source: The file, its columns, and which of its rows are used.

    Raises:
        DataError: If the file or a row cannot be used, or no question is left.
    """
    used, bad_rows = _write(source)
    if _may_repeat([used]):  # seldom: an exact look takes time and memory for all
        used, bad_rows = _write(source, check_unique)
    _check_rows(source, bad_rows, len(used))
    filtered: dict[str, Any] | None = None
    if source.answers_in is not None:
        kept = with_answer_in(used.column("golden_answers"), source.answers_in)
        filtered = {
            "corpus_sha256": file_hash(source.answers_in),
            "with_answer": len(kept),
            "without_answer": len(used) - len(kept),
        }
        used = used.select(kept)
    if source.shuffle:
        order = list(range(len(used)))
        random.Random(source.seed).shuffle(order)  # noqa: S311 (not a secret)
        used = used.select(order)
    return SourceQuestions(source, used[: source.limit], file_hash(source.path), bad_rows, filtered)


def _write(source: DataSource, check: _Check | None = None) -> tuple[PromptTable, BadRows]:
    """The prompts of a source that pass a check, not yet filtered, and the rows that were malformed."""
    bad_rows = BadRows(source.on_bad_row)
    at_once = _AT_ONCE if check is None and source.limit is None else 1  # no row behind the one that is looked at
    prompts = _chosen(_well_formed(source, bad_rows, at_once), source)
    if check is not None:
        prompts = check(prompts, bad_rows)
    takes_first = source.answers_in is None and not source.shuffle
    with _no_garbage_collection():
        return PromptTable.write(islice(prompts, source.limit if takes_first else None)), bad_rows


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Rows make no cycles; looking for them among all that the libraries hold takes a fifth of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _check_rows(source: DataSource, bad_rows: BadRows, usable: int) -> None:
    """Refuse a file of which nothing can be used, or not all that must be."""
    if not usable and bad_rows.count > (source.on_bad_row == "error"):
        raise DataError(
            f"Expected at least one usable row in {source.path}, got {_malformed(bad_rows.count)}. The first: "
            f"{bad_rows.first}"
        )
    bad_rows.check(source.path, SKIP_ADVICE)
    if not usable:
        raise DataError(f"Expected at least one row in {source.path}, got an empty data set. Check the file.")


def read_sources(sources: Iterable[DataSource]) -> tuple[list[SourceQuestions], list[DataError]]:
    """Read several data sources, all of them whatever is wrong with one.

    Args:
        sources: The sources.

    Returns:
        The questions of those that can be used, and what is wrong with the others, for `raise_together`.
    """
    found: list[SourceQuestions] = []
    refused: list[DataError] = []
    for source in sources:
        try:
            found.append(read_source(source))
        except DataError as error:
            refused.append(error)
    return found, refused


def raise_together(errors: Sequence[DataError]) -> None:
    """Raise what is wrong with each of several files as one error; nothing where nothing is.

    Args:
        errors: One per file.

    Raises:
        DataError: If there are any.
    """
    if len(errors) == 1:
        raise errors[0]
    if errors:
        lines = "\n".join(str(error) for error in errors)
        raise DataError(f"Expected data files that can be used, got {len(errors)} that cannot:\n{lines}")


def read_prompts(source: DataSource) -> PromptTable:
    """Return the prompts of a data source alone, without token ids.

    Args:
        source: The file, its columns, and which of its rows are used.

    Raises:
        DataError: If the file or a row cannot be used, or no question is left.
    """
    return read_source(source).prompts


def questions_hash(prompts: Iterable[Prompt]) -> str:
    """Return the SHA-256 of questions and gold answers in their order, whatever file they came from.

    Args:
        prompts: The questions.
    """
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(json.dumps([prompt.data_source, prompt.question, prompt.golden_answers]).encode() + b"\n")
    return digest.hexdigest()


def check_unique(prompts: Iterable[_Prompt], bad_rows: BadRows | None = None) -> Iterator[_Prompt]:
    """Yield the prompts; those whose id another one of the same data source had before are malformed.

    Args:
        prompts: The prompts.
        bad_rows: Takes them; None raises the first.

    Raises:
        DataError: If an id comes twice and nothing takes it.
    """
    seen = _SeenIds()
    for prompt in prompts:
        first = seen.add(prompt.data_source, prompt.prompt_id, prompt.origin)
        if first is None:
            yield prompt
        else:
            (bad_rows or BadRows()).take(_repeated(prompt.data_source, prompt.prompt_id, first, prompt.origin))


def join_unique(tables: Sequence[PromptTable]) -> PromptTable:
    """Return the prompts of several data sources as one table.

    Args:
        tables: At least one, each without repeated ids.

    Raises:
        DataError: If ids come twice; all of them are named.
    """
    if len(tables) > 1 and _may_repeat(tables):
        seen, repeated = _SeenIds(), BadRows("error")
        for table in tables:
            for name, prompt_id, origin in zip(*map(table.column, ("data_source", "prompt_id", "origin")), strict=True):
                if (first := seen.add(name, prompt_id, origin)) is not None:
                    repeated.take(_repeated(name, prompt_id, first, origin))
        repeated.check("the files together")
    return PromptTable.joined(tables)


def _may_repeat(tables: Sequence[PromptTable]) -> bool:
    """Whether two ids are one, by a hash of 64 bits: never false where they are."""
    ids = chain.from_iterable(
        zip(table.column("data_source"), table.column("prompt_id"), strict=True) for table in tables
    )
    hashes = np.fromiter(map(hash, ids), np.int64, sum(map(len, tables)))
    hashes.sort()
    return bool((hashes[1:] == hashes[:-1]).any())


class _SeenIds:
    """Where each id was first: by a hash of 60 bits, and the numbers of file and row; some 110 bytes each."""

    def __init__(self) -> None:
        self._files: list[str] = []
        self._start = ""  # of the origins of the file that is read now
        self._first: dict[int, int] = {}

    def add(self, data_source: str, prompt_id: str, origin: str) -> str | None:
        """Take an id in; return the ``file:row`` where it was before, None where it is new.

        Args:
            data_source: Name of the data set.
            prompt_id: The id in it.
            origin: ``file:row`` where it stands.
        """
        if not self._start or not origin.startswith(self._start):
            self._start = origin[: origin.rindex(":") + 1]
            self._files.append(self._start)
        here = len(self._files) << _ROW_BITS | int(origin[len(self._start) :])
        first = self._first.setdefault(hash((data_source, prompt_id)) >> 4, here)
        return None if first is here else f"{self._files[(first >> _ROW_BITS) - 1]}{first & (1 << _ROW_BITS) - 1}"


def _repeated(data_source: str, prompt_id: str, first: str, second: str) -> DataError:
    return DataError(
        f"Expected prompt ids to be unique within data source {data_source!r}, got {prompt_id!r} at {first} and at "
        f"{second}. Remove one of the rows, or give one of the files another `name`."
    )


class _AfterThose(BadRows):
    """Hands a reader's malformed rows on, after those before them that only wait to become prompts.

    Args:
        bad_rows: Takes them.
        settle: Makes prompts of the rows that wait.
    """

    def __init__(self, bad_rows: BadRows, settle: Callable[[], None]) -> None:
        super().__init__()
        self._bad_rows = bad_rows
        self._settle = settle

    def take(self, error: DataError) -> None:
        """Hand it on."""
        self._settle()
        self._bad_rows.take(error)


def _well_formed(source: DataSource, bad_rows: BadRows, at_once: int) -> Iterator[PromptRow]:
    """The prompts of all rows, of which so many are made at once."""
    make = PromptMaker(source)
    waiting: list[Row] = []
    made: list[PromptRow] = []

    def settle() -> None:
        made.extend(make(waiting, bad_rows))
        waiting.clear()

    for row in read_rows(source.path, bad_rows=_AfterThose(bad_rows, settle), file_format=source.format):
        waiting.append(row)
        if len(waiting) == at_once:
            settle()
            yield from made
            made.clear()
    settle()
    yield from made


def _chosen(prompts: Iterator[PromptRow], source: DataSource) -> Iterator[PromptRow]:
    """The prompts of the data sets that the source names, under the names that it gives them."""
    if source.data_sources is None:
        yield from prompts
        return
    names: Mapping[str, str] = (
        source.data_sources if isinstance(source.data_sources, dict) else {name: name for name in source.data_sources}
    )
    found: Counter[str] = Counter()
    for prompt in prompts:
        found[prompt.data_source] += 1
        if prompt.data_source in names:
            yield prompt._replace(data_source=names[prompt.data_source])
    missing = sorted(names.keys() - found.keys())
    if missing and found:
        raise DataError(
            f"Expected the data sets {', '.join(missing)} in {source.path} (`data_sources`), got "
            f"{', '.join(sorted(found))}. Correct the names."
        )


def _malformed(count: int) -> str:
    return f"{count:,} malformed row{'s' * (count != 1)}"

"""Prompts that are indexed, not held: in a file of the temporary folder, read when they are handed out.

Millions of questions are gigabytes as Python objects; in an Arrow file that is mapped into memory they are what the
system keeps of it. The file has no name any more once it is mapped, so that nothing is left whatever ends the process.
"""

import json
import mmap
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from llds.errors import DataError
from llds.types import Prompt

_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.large_string()),
        ("question", pa.large_string()),
        ("golden_answers", pa.large_list(pa.large_string())),
        ("data_source", pa.large_string()),
        ("messages", pa.large_string()),  # as JSON
        ("origin", pa.large_string()),
        ("row", pa.large_binary()),  # as JSON
    ]
)
_BATCH_ROWS = 4096
_FORGET_EVERY = 16  # batches
_MAX_ROW_BYTES = 1 << 20


class PromptRow(NamedTuple):  # made in a fraction of the time of a `Prompt`; there are millions
    """What a row of a file says of a prompt; as in `Prompt`, in the order of the table's columns."""

    prompt_id: str
    question: str
    golden_answers: tuple[str, ...]
    data_source: str
    messages: tuple[Mapping[str, str], ...] | None
    origin: str
    row: Mapping[str, Any]


new_prompt_row: Callable[[Iterable[Any]], PromptRow] = partial(tuple.__new__, PromptRow)
"""`PromptRow._make` in a third of the time: for values that are known to be as many as they must."""


class PromptTable(Sequence[Prompt]):
    """A sequence of prompts without token ids; each is made when it is asked for.

    Args:
        table: Their columns, in the order in which they were written.
        maps: The files behind it.
        order: Numbers of the rows that belong to the sequence, in its order; None is all.
    """

    def __init__(self, table: pa.Table, maps: Sequence[mmap.mmap], order: npt.NDArray[np.int64] | None = None) -> None:
        self._table = table
        self._maps = maps
        self._order = np.arange(len(table)) if order is None else order

    @classmethod
    def write(cls, prompts: Iterable[PromptRow]) -> "PromptTable":
        """Write prompts to the temporary folder.

        Args:
            prompts: The prompts; read one after another and not held.

        Raises:
            DataError: If there is no room.
        """
        path = ""
        try:
            handle, path = tempfile.mkstemp(prefix="llds-prompts-", suffix=".arrow")
            os.close(handle)
            with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
                stream = iter(prompts)
                while batch := list(islice(stream, _BATCH_ROWS)):
                    writer.write_batch(_encode(batch))
            with open(path, "rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return cls(pa.ipc.open_file(pa.py_buffer(mapped)).read_all(), [mapped])
        except OSError as error:
            raise DataError(
                f"Expected to write the questions to {path or 'a temporary file'}, got {error}. Make room, or set "
                "TMPDIR to another folder."
            ) from error
        finally:
            with suppress(OSError):
                os.unlink(path)

    @classmethod
    def joined(cls, tables: Sequence["PromptTable"]) -> "PromptTable":
        """The prompts of several tables, one after another.

        Args:
            tables: At least one.
        """
        starts = np.cumsum([0, *(len(table._table) for table in tables)])
        orders = [table._order + start for table, start in zip(tables, starts, strict=False)]
        maps = [one for table in tables for one in table._maps]
        return cls(pa.concat_tables([table._table for table in tables]), maps, np.concatenate(orders))

    def __len__(self) -> int:
        """Number of prompts."""
        return len(self._order)

    @overload
    def __getitem__(self, index: int) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice) -> "PromptTable": ...
    def __getitem__(self, index: int | slice) -> "Prompt | PromptTable":
        """A prompt, or the table of some of them."""
        if isinstance(index, slice):
            return PromptTable(self._table, self._maps, self._order[index])
        [prompt] = _decode(self._table.slice(int(self._order[index]), 1))
        self._forget()  # with each page that is touched the system maps some more: 0.4 MB for a prompt
        return prompt

    def __iter__(self) -> Iterator[Prompt]:
        """Yield the prompts."""
        for rows in self._batches(list(_SCHEMA.names)):
            yield from _decode(rows)

    def select(self, indices: Iterable[int]) -> "PromptTable":
        """The table of some of the prompts.

        Args:
            indices: Their places in the sequence, in the order in which they are wanted.
        """
        return PromptTable(self._table, self._maps, self._order[np.fromiter(indices, np.int64)])

    def column(self, name: str) -> Iterator[Any]:
        """Yield one column of every prompt, without making prompts.

        Args:
            name: ``prompt_id``, ``question``, ``golden_answers`` (a list), ``data_source`` or ``origin``.
        """
        for rows in self._batches([name]):
            yield from rows.column(0).to_pylist()

    def question_bytes(self) -> npt.NDArray[np.int64]:
        """Length of every question in UTF-8 bytes."""
        parts = [pc.binary_length(rows.column(0)).to_numpy() for rows in self._batches(["question"])]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def have_messages(self) -> npt.NDArray[np.bool_]:
        """Whether each prompt brings chat messages."""
        parts = [pc.is_valid(rows.column(0)).to_numpy() for rows in self._batches(["messages"])]
        return np.concatenate(parts) if parts else np.zeros(0, np.bool_)

    def lines(self) -> Iterator[bytes]:
        """Yield what `prompt_line` gives for every prompt, many at a time."""
        for rows in self._batches(["data_source", "prompt_id", "question"]):
            slash, colon, end, nothing = (pa.scalar(text, pa.large_string()) for text in ("/", ": ", "\n", ""))
            parts = (rows["data_source"], slash, rows["prompt_id"], colon, rows["question"], end)
            joined = pc.binary_join_element_wise(*parts, nothing)  # the last is what stands between
            whole = pa.LargeListArray.from_arrays([0, len(joined)], joined.combine_chunks())
            yield pc.binary_join(whole, nothing)[0].as_py().encode()

    def _batches(self, columns: list[str]) -> Iterator[pa.Table]:
        table = self._table.select(columns)
        for start in range(0, len(self._order), _BATCH_ROWS):
            rows = self._order[start : start + _BATCH_ROWS]
            is_run = rows[-1] - rows[0] == len(rows) - 1 and bool((np.diff(rows) == 1).all())
            yield table.slice(int(rows[0]), len(rows)) if is_run else table.take(rows)
            if start % (_FORGET_EVERY * _BATCH_ROWS) == 0:
                self._forget()
        self._forget()

    def _forget(self) -> None:
        """Tell the system that pages which were read once need not stay in the memory of this process."""
        for one in self._maps:
            one.madvise(mmap.MADV_DONTNEED)


def prompt_line(prompt: Prompt) -> bytes:
    """Return what a checksum of prompts in their order is made of.

    Args:
        prompt: The prompt.
    """
    return f"{prompt.data_source}/{prompt.prompt_id}: {prompt.question}\n".encode("utf-8", "surrogatepass")


def _encode(prompts: Sequence[PromptRow]) -> pa.RecordBatch:
    ids, questions, golds, sources, messages, origins, rows = zip(*prompts, strict=True)
    chats = [None if one is None else json.dumps(one) for one in messages]
    columns = [ids, questions, golds, sources, chats, origins, list(map(_row_as_json, rows, origins))]
    return pa.record_batch(columns, schema=_SCHEMA)


def _row_as_json(row: Mapping[str, Any], origin: str) -> bytes | None:
    if not row:
        return None
    try:
        text = orjson.dumps(row, default=_as_text)
    except TypeError:  # whole numbers over 64 bits, half characters
        text = json.dumps(row, default=_as_text).encode()
    if len(text) > _MAX_ROW_BYTES:
        raise DataError(
            f"Expected a row of at most {_MAX_ROW_BYTES:,} bytes for tools and rewards, got {len(text):,} at "
            f"{origin}. Name the columns that they read in `row_fields` of the data source ([] is none)."
        )
    return text


def _as_text(value: Any) -> str:
    """What JSON has no word for (dates, decimals, bytes of parquet files)."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _decode(rows: pa.Table) -> list[Prompt]:
    ids, questions, golds, sources, messages, origins, extra = (column.to_pylist() for column in rows.columns)
    return [
        Prompt(
            prompt_id=ids[at],
            question=questions[at],
            golden_answers=tuple(golds[at]),
            data_source=sources[at],
            messages=None if messages[at] is None else tuple(json.loads(messages[at])),
            origin=origins[at],
            row={} if extra[at] is None else json.loads(extra[at]),
        )
        for at in range(len(rows))
    ]

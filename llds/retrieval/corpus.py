r"""A corpus in the file format of Search-R1: read through once to check it, then as often as it is needed.

Rows are ``{"id": "0", "contents": "\"title\"\ntext"}`` or have the columns ``id``, ``title`` (may be missing) and
``text``, or what these are called in BEIR, Tevatron, ir_datasets, Haystack and MuSiQue; a ``title`` may stand beside
``contents``, as Pyserini has it. Rows without an id get their number, those without a text are left out. Files are
those of `llds.files` (jsonl, also in gzip, parquet, ...). A JSON object from titles to lists of sentences, as HippoRAG
has it, is a corpus too: the titles are the ids. Comes before everything else of retrieval: what is wrong with a corpus
is said here, with its file and row, before anything is built from it.
"""

import hashlib
import logging
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llds.errors import DataError
from llds.files import BadRows, Row, file_hash, read_rows
from llds.files.hub_data import is_on_hub
from llds.files.rows import is_array_repr, is_unicode, shorten
from llds.paths import where_looked
from llds.retrieval.base import Passage

_ID_COLUMNS = ("id", "_id", "docid", "doc_id")
_TEXT_COLUMNS = ("text", "content", "passage", "paragraph_text")
"""Of several, the first counts."""
_COLUMNS = {*_ID_COLUMNS, *_TEXT_COLUMNS, "contents", "title"}
_KEY_BYTES = 8
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Corpus:
    """A corpus file whose every row is right and whose ids are unique. Iterating reads the file again.

    Attributes:
        path: The file.
        rows: Number of passages.
        merged: Ordinals (from 0, among the rows with a text) of those that repeat an earlier one, id and text; they are
            left out.
        text_bytes: UTF-8 bytes of all ids, titles and texts.
        file_hash: SHA-256 of the file: changes with every byte, and is quick to compare.
        passages_hash: SHA-256 of ids, titles and texts in order: the same for every file with the same passages.
        oddities: What is odd about the rows and was seen to.
    """

    path: Path
    rows: int
    merged: frozenset[int]
    text_bytes: int
    file_hash: str
    passages_hash: str
    oddities: "Oddities"

    def __iter__(self) -> Iterator[Passage]:
        """Yield the passages in file order, one at a time.

        Raises:
            DataError: The file changed since it was checked.
        """
        digest = _PassagesDigest()
        for ordinal, (_, passage) in enumerate(iter_passages(self.path)):
            if ordinal not in self.merged:
                digest.add(passage)
                yield passage
        if digest.hexdigest() != self.passages_hash:
            raise DataError(f"Expected {self.path} to stay as it is while it is read, got a change. Start again.")


@dataclass
class Oddities:
    """What is odd about the rows of a corpus, and is no error.

    Attributes:
        empty: Rows without a text, such as pages that could not be fetched; they are left out.
        numbered: Rows without an id; they get the number of the row.
    """

    empty: int = 0
    numbered: int = 0

    def log(self, path: Path) -> None:
        """Say it once.

        Args:
            path: The corpus file.
        """
        if self.numbered:
            _log.info("%s: %s rows without `id` got the number of their row.", path, f"{self.numbered:,}")
        if self.empty:
            _log.info("%s: %s rows without a text are left out.", path, f"{self.empty:,}")


def check_corpus(path: Path) -> Corpus:
    """Read a corpus file through; all of its bad rows are named together.

    Needs 16 bytes of memory for each row (8 of them at the end only), and about 300 for each row that repeats an id.

    Raises:
        DataError: The file is missing, empty or damaged, a row is not as it must be, or an id stands for two texts.
    """
    if not is_on_hub(path) and not path.exists():
        raise DataError(
            f"Expected a corpus file, got {path}, which does not exist. {where_looked(path)}Check `retriever.corpus`."
        )
    digest, keys = _PassagesDigest(), array("Q")
    bad_rows, oddities = BadRows("error"), Oddities()
    for _, passage in iter_passages(path, bad_rows, oddities):
        digest.add(passage)
        keys.append(_key(passage.document_id))
    bad_rows.check(path)
    oddities.log(path)
    if not keys:
        raise DataError(f"{path}: Expected at least one passage, got an empty corpus. Check how it was made.")
    merged = _repetitions(path, keys)
    if merged:
        digest = _PassagesDigest()
        for ordinal, (_, passage) in enumerate(iter_passages(path)):
            if ordinal not in merged:
                digest.add(passage)
    rows = len(keys) - len(merged)
    return Corpus(path, rows, merged, digest.text_bytes, file_hash(path), digest.hexdigest(), oddities)


def read_corpus(path: Path) -> Iterator[Passage]:
    """Yield the passages of a corpus file in file order, without holding the file in memory. Checks all of it first.

    Raises:
        DataError: As `check_corpus`.
    """
    yield from check_corpus(path)


def passage_content(passage: Passage) -> str:
    """Return the text that is embedded for a passage: its title and its text."""
    return f"{passage.title} {passage.text}".strip()


def split_contents(contents: str) -> tuple[str, str]:
    r"""Return title and text of ``"title"\ntext``; a text of one line has no title."""
    first_line, newline, rest = contents.partition("\n")
    if not newline:
        return "", contents.strip()
    title = first_line.strip()
    if len(title) >= 2 and title[0] == title[-1] == '"':
        title = title[1:-1]
    return title, rest.strip()


def passage_from_row(row: Row) -> Passage:
    """Make a passage of a row; one of which the text is empty is to be left out.

    Args:
        row: The row.

    Raises:
        DataError: If a field is missing or holds something else than it must.
    """
    values = row.values
    text_column = next((name for name in _TEXT_COLUMNS if name in values), "")
    if "contents" not in values and not text_column:
        raise DataError(
            f"{row.origin}: Expected the fields `contents`, or `title` and `text`, with or without `id`, "
            f"got {sorted(values)}. Rename or add them."
        )
    id_column = _id_column(row)
    document_id = _text(row, id_column, (str, int)) if id_column else str(row.number)
    if "contents" not in values:
        title = _text(row, "title", may_be_empty=True).strip()
        return Passage(document_id, title, _text(row, text_column, may_be_empty=True).strip())
    contents = _text(row, "contents", may_be_empty=True)
    first_line, rest = split_contents(contents)
    title = _text(row, "title", (str, int), may_be_empty=True).strip()
    if title.strip('"') not in ("", first_line):  # the first line is text, too
        return Passage(document_id, title, contents.strip())
    return Passage(document_id, first_line, rest)


class _PassagesDigest:
    """A running hash of passages, and their size."""

    def __init__(self) -> None:
        self._sha = hashlib.sha256()
        self.text_bytes = 0

    def add(self, passage: Passage) -> None:
        """Take the next passage."""
        parts = [part.encode() for part in (passage.document_id, passage.title, passage.text)]
        sizes = [len(part) for part in parts]
        self.text_bytes += sum(sizes)
        self._sha.update(b"".join([repr(sizes).encode(), *parts]))  # with the sizes no two corpora run together alike

    def hexdigest(self) -> str:
        """The hash of all that came."""
        return self._sha.hexdigest()


def _key(document_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(document_id.encode(), digest_size=_KEY_BYTES).digest(), "little")


def _repetitions(path: Path, keys: "array[int]") -> frozenset[int]:
    """Ordinals of the rows that repeat an earlier one; an id with two texts is an error.

    Args:
        path: The corpus file.
        keys: A hash of each row's id.
    """
    ordered = np.sort(np.frombuffer(keys, dtype=np.uint64))
    suspects = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    if not suspects:
        return frozenset()
    first: dict[str, tuple[int, bytes]] = {}
    repeated = set()
    for ordinal, (row, passage) in enumerate(iter_passages(path)):
        if keys[ordinal] not in suspects:
            continue
        text = hashlib.sha256(f"{passage.title}\n{passage.text}".encode()).digest()
        first_row, first_text = first.setdefault(passage.document_id, (row.number, text))
        if first_text != text:
            raise DataError(
                f"{row.origin}: Expected every `id` once, got {passage.document_id!r} again, with another text than in "
                f"row {first_row}. Number the passages anew or drop one of them."
            )
        if first_row != row.number:
            repeated.add(ordinal)
    return frozenset(repeated)


def iter_passages(
    path: Path, bad_rows: BadRows | None = None, oddities: Oddities | None = None
) -> Iterator[tuple[Row, Passage]]:
    """Yield the passages of a corpus file with their rows, each as it is read: ids that come again are not noticed.

    Args:
        path: The file.
        bad_rows: Takes the rows that are not as they must be; None raises the first.
        oddities: Counts those that are odd.

    Raises:
        DataError: The file is damaged, or a row is not as it must be and nothing takes it.
    """
    bad_rows, oddities = bad_rows or BadRows(), oddities or Oddities()
    for row in read_rows(path, bad_rows=bad_rows):
        for item in _pages(row) if _is_pages(row) else [row]:
            try:
                passage = passage_from_row(item)
            except DataError as error:
                bad_rows.take(error)
                continue
            oddities.numbered += not _id_column(item)
            oddities.empty += not passage.text
            if passage.text:
                yield item, passage


def _is_pages(row: Row) -> bool:
    """Whether a row is a whole corpus: an object from titles to lists of sentences."""
    return row.number == 1 and not _COLUMNS & row.values.keys() and all(map(_is_text_list, row.values.values()))


def _is_text_list(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _pages(row: Row) -> Iterator[Row]:
    for number, (title, sentences) in enumerate(row.values.items(), start=1):
        values = {"id": title, "title": title, "text": "".join(sentences)}
        yield Row(f"{row.origin} ({title!r})", number, values)


def _id_column(row: Row) -> str:
    """The column of the id; empty where the row has none."""
    return next((name for name in _ID_COLUMNS if name in row.values), "")


def _text(row: Row, name: str, types: tuple[type, ...] = (str,), may_be_empty: bool = False) -> str:
    value = row.values.get(name)
    if may_be_empty and (value is None or value == ""):
        return ""
    if not isinstance(value, types) or isinstance(value, bool) or not (may_be_empty or str(value).strip()):
        kind = " or a number" if int in types else ""
        raise DataError(
            f"{row.origin}: Expected `{name}` to be a text that is not empty{kind}, got {shorten(value)}. Repair it."
        )
    if not is_unicode(str(value)):
        raise DataError(f"{row.origin}: Expected `{name}` to be Unicode text, got half a character (a lone surrogate).")
    if isinstance(value, str) and is_array_repr(value):
        raise DataError(
            f"{row.origin}: Expected `{name}` to be a text, got what Python or numpy writes for a list, "
            f"{shorten(value)}. Write its items as one text."
        )
    return str(value)

"""Which questions a corpus can answer at all: those of whose gold answers one occurs in a passage.

A question whose answer is nowhere to be found teaches a search agent nothing. Reads the corpus once, passage by
passage, and looks for all answers at the same time (Aho-Corasick). Occurring is not being answered: "no" occurs in
every corpus.
"""

import unicodedata
from collections.abc import Iterable
from pathlib import Path

from ahocorasick_rs import AhoCorasick

from llds.errors import DataError
from llds.files import BadRows
from llds.paths import resolve_path
from llds.rewards import comparable_answer, contains_answer, normalize_answer


def with_answer_in(golds: Iterable[Iterable[str]], corpus: str | Path) -> list[int]:
    """Return which questions have a gold answer that occurs in a title or a text of a corpus.

    Answers and passages are normalized as rewards normalize them, and whole words count: "us" does not occur in
    "house". In scripts without spaces between words (Chinese, Japanese), any place counts. An answer of which
    normalization leaves nothing is looked for as it is.

    Args:
        golds: The gold answers of each question.
        corpus: A corpus file.

    Returns:
        Their numbers, from 0, in order.

    Raises:
        DataError: If the corpus cannot be read, or holds no answer at all.
    """
    wanted = [{comparable_answer(gold) for gold in of_question} - {""} for of_question in golds]
    found = answers_in_corpus({answer for answers in wanted for answer in answers}, corpus)
    kept = [number for number, answers in enumerate(wanted) if answers & found]
    if wanted and not kept:
        raise DataError(
            f"Expected an answer of at least one of {len(wanted):,} questions in {corpus}, got none. "
            "Check `answers_in`: the corpus does not belong to these questions."
        )
    return kept


def answers_in_corpus(answers: Iterable[str], corpus: str | Path) -> set[str]:
    """Return those of the answers that occur in a passage of a corpus.

    Args:
        answers: Answers as `comparable_answer` gives them, none of them empty.
        corpus: A corpus file; it is read to where the last answer was found.

    Raises:
        DataError: If the corpus cannot be read.
    """
    # Imported here: reading questions alone needs no retriever
    from llds.retrieval.corpus import iter_passages, passage_content

    answers = set(answers)
    plain = {answer for answer in answers if not normalize_answer(answer)}  # a handful
    words = sorted(answers - plain)
    matcher = AhoCorasick([_with_edges(answer) for answer in words], store_patterns=False)
    found: set[str] = set()
    bad_rows = BadRows("error")
    for _, passage in iter_passages(resolve_path(corpus), bad_rows):
        content = passage_content(passage)
        text = _with_edges(normalize_answer(content), always=True)
        found.update(words[number] for number, _, _ in matcher.find_matches_as_indexes(text, overlapping=True))
        found.update(answer for answer in plain - found if contains_answer(content, answer))
        if len(found) == len(answers):
            break
    bad_rows.check(corpus)
    return found


def _with_edges(text: str, always: bool = False) -> str:
    """The text between spaces, which stand for the edges of words; none beside a character of a script without."""
    edges = [" " if always or _separates_words(character) else "" for character in (text[:1], text[-1:])]
    return edges[0] + text + edges[1]


def _separates_words(character: str) -> bool:
    return character == "" or unicodedata.east_asian_width(character) not in "WF"

"""Where a search engine shows the answer of a real question: found by rule, without a model.

The rule searches for the question itself and for the titles of the corpus that stand in it; where none of the passages
found holds the answer, for the titles that stand in these (a second hop). What counts is what the policy would really
read: the passages that the retriever returns, cut as observations are.

Left out: how evidence becomes a demonstration (`warm_up.py`). An answer may stand in a passage by chance: `frequent`
says which answers do so often.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ahocorasick_rs import AhoCorasick

from llds.rewards import contains_answer, normalize_answer

Kind = Literal["one_search", "two_searches", "comparison"]

_IN_BRACKETS = re.compile(r"\s*\([^()]*\)$")
_VERDICTS = {"yes", "no"}
_LEAST_CHARS = 4
"""Shorter titles ("It", "Us") are mostly other words of a question."""
_MOST_HOPS = 6
"""Titles of the passages that are tried as a second search."""


@dataclass(frozen=True)
class Evidence:
    """What to search for, in turn, to read the answer.

    Attributes:
        kind: One search, two of which the second needs the first's passages, or two things that are compared.
        queries: The searches.
    """

    kind: Kind
    queries: tuple[str, ...]


class Names:
    """The titles of a corpus, to be found in texts.

    Args:
        titles: Of all passages; what stands in brackets at their end is left out.
    """

    def __init__(self, titles: Iterable[str]) -> None:
        bare = {_IN_BRACKETS.sub("", title) for title in titles}
        self._names = sorted(name for name in bare if len(name) >= _LEAST_CHARS and name[0].isupper())
        self._matcher = AhoCorasick(self._names)

    def find(self, text: str) -> list[str]:
        """The names in a text, each once, in their order: whole words, the longest where several overlap.

        A single word that begins the text is no name: every first word has a capital.

        Args:
            text: A question, or passages.
        """
        spans = [
            (start, start - end, number)
            for number, start, end in self._matcher.find_matches_as_indexes(text, overlapping=True)
            if not text[max(0, start - 1) : start].isalnum() and not text[end : end + 1].isalnum()
        ]
        found: list[str] = []
        covered = 0
        for start, minus_length, number in sorted(spans):
            name = self._names[number]
            if start >= covered and (start > 0 or " " in name):
                covered = start - minus_length
                found += [] if name in found else [name]
        return found


def frequent(answers: Iterable[str], texts: Iterable[str], most: int) -> set[str]:
    """Those of the answers that stand in more texts than so many ("American"): that they do says nothing.

    Args:
        answers: Gold answers.
        texts: The corpus.
        most: In how many an answer may stand.
    """
    known = {answer: f" {normalize_answer(answer)} " for answer in answers}
    words = sorted({*known.values()} - {"  "})
    matcher = AhoCorasick(words)
    counts = Counter(
        number
        for text in texts
        for number in {
            found for found, _, _ in matcher.find_matches_as_indexes(f" {normalize_answer(text)} ", overlapping=True)
        }
    )
    often = {words[number] for number, count in counts.items() if count > most}
    return {answer for answer, word in known.items() if word in often}


class EvidenceFinder:
    """Looks for evidence as an agent would that knows the answer.

    Args:
        names: The titles of the corpus.
        shown: What the policy reads after a search for these words; nothing where it cannot search for them.
    """

    def __init__(self, names: Names, shown: Callable[[str], str]) -> None:
        self.names = names
        self.shown = shown

    def find(self, question: str, answers: Sequence[str]) -> Evidence | None:
        """Evidence for one of the answers, None where the rule finds none.

        Args:
            question: The question.
            answers: Its gold answers.
        """
        named = self.names.find(question)
        if any(normalize_answer(one) in _VERDICTS or contains_answer(question, one) for one in answers):
            return self._comparison(named)
        searches = [question.rstrip(" ?"), *named]
        for query in searches:
            if self._holds(query, answers):
                return Evidence("one_search", (query,))
        for query in searches:
            for second in self.names.find(self.shown(query))[:_MOST_HOPS]:
                if second not in named and self._holds(second, answers):
                    return Evidence("two_searches", (query, second))
        return None

    def _holds(self, query: str, answers: Sequence[str]) -> bool:
        return any(contains_answer(self.shown(query), answer) for answer in answers)

    def _comparison(self, named: Sequence[str]) -> Evidence | None:
        """Both things that the question names, where a search for each finds its page."""
        pages = [name for name in named if f'(Title: "{name}' in self.shown(name)]
        return Evidence("comparison", (pages[0], pages[1])) if len(pages) > 1 else None

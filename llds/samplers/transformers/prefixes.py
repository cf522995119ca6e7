"""What contexts of a batch begin with in common, so that it goes through the model once.

The trajectories of a group share their prompt, all prompts of a template share its first words, and what trajectories
did alike they share too. A *shared prefix* belongs to several rows; longer ones that fewer rows share go on from it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile

_LEAST_TOKENS = 8
"""Shorter ones are not worth a forward of their own."""


@dataclass(frozen=True, eq=False)
class SharedPrefix:
    """A beginning that several contexts share.

    Attributes:
        rows: Those that share it, at least two.
        length: Its tokens; each of the rows has at least one more, because a last token always goes through the model.
        parent: The shorter prefix that it goes on from, if there is one.
    """

    rows: tuple[int, ...]
    length: int
    parent: "SharedPrefix | None" = None

    @property
    def depth(self) -> int:
        """Number of shorter prefixes that must be there before this one."""
        return 0 if self.parent is None else self.parent.depth + 1


def shared_prefixes(contexts: dict[int, list[int]]) -> list[SharedPrefix]:
    """Find what contexts share, shortest first; each adds at least `_LEAST_TOKENS` to its parent.

    Args:
        contexts: Token ids by row.
    """
    rows = sorted(contexts, key=lambda row: contexts[row])
    return sorted(_prefixes(contexts, rows, None), key=lambda prefix: prefix.depth)


def _prefixes(contexts: dict[int, list[int]], rows: list[int], parent: SharedPrefix | None) -> Iterator[SharedPrefix]:
    """Those of rows that are in the order of their contexts and agree on the parent."""
    if len(rows) < 2:
        return
    end = min(_common(contexts[rows[0]], contexts[rows[-1]]), min(len(contexts[row]) for row in rows) - 1)
    if end - (parent.length if parent else 0) >= _LEAST_TOKENS:
        parent = SharedPrefix(tuple(rows), end, parent)
        yield parent
    longer = [row for row in rows if len(contexts[row]) > end + 1]
    for _, alike in groupby(longer, key=lambda row: contexts[row][end]):
        yield from _prefixes(contexts, list(alike), parent)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Number of tokens that both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))

"""The micro-batches of a mini-batch, balanced over the ranks.

Every rank gets as many micro-batches as every other, so that none waits for a collective that another does not reach;
those that run at the same time have about as many tokens. The result of training does not depend on any of it.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llds.batches.prefix_tree import common_prefix, lexicographic_order


@dataclass(frozen=True)
class MicroBatchLimits:
    """How big a micro-batch may be; a single trajectory is always allowed.

    Attributes:
        trajectories: Most of them.
        tokens: Most tokens: distinct ones where prefixes are shared, else with padding; None is any number.
    """

    trajectories: int
    tokens: int | None = None

    def allow(self, trajectories: int, tokens: int) -> bool:
        """Whether a micro-batch may be so big."""
        return trajectories <= 1 or (
            trajectories <= self.trajectories and (self.tokens is None or tokens <= self.tokens)
        )


def padded_micro_batches(lengths: Tensor, limits: MicroBatchLimits, rank: int, ranks: int) -> list[Tensor]:
    """A rank's micro-batches of rows that are going to be padded.

    Rows of similar length run at the same time, so that little is padding; those that do are shared out to the ranks
    back and forth by length.

    Args:
        lengths: Tokens of each row, ``[B]``.
        limits: Of a micro-batch.
        rank: Number of the rank whose rows are wanted.
        ranks: Number of ranks.

    Returns:
        Row numbers of each micro-batch; as many on every rank, some of them empty.
    """
    order = torch.argsort(lengths, stable=True)
    simultaneous: list[list[int]] = []  # rows of the micro-batches that all ranks run at the same time
    for row, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        rows_each = -(-(len(simultaneous[-1]) + 1) // ranks) if simultaneous else 0
        if not simultaneous or not limits.allow(rows_each, rows_each * length):
            simultaneous.append([])
        simultaneous[-1].append(row)
    mine = []
    for of_all_ranks in simultaneous:
        rows = torch.tensor(of_all_ranks, device=lengths.device)
        place = torch.arange(len(rows), device=rows.device)
        turn, offset = place // ranks, place % ranks
        owner = torch.where(turn % 2 == 0, offset, ranks - 1 - offset)
        mine.append(rows[owner == rank])
    return mine


def packed_micro_batches(
    input_ids: Tensor, lengths: Tensor, limits: MicroBatchLimits, rank: int, ranks: int
) -> list[Tensor]:
    """A rank's micro-batches of rows whose common prefixes are computed once in each.

    Rows that share a prefix stay together. There are as few micro-batches as the limits and the ranks allow, of about
    as many distinct tokens each.

    Args:
        input_ids: ``[B, T]`` long.
        lengths: Tokens of each row, ``[B]``.
        limits: Of a micro-batch.
        rank: Number of the rank whose rows are wanted.
        ranks: Number of ranks.

    Returns:
        Row numbers of each micro-batch; as many on every rank, some of them empty.
    """
    sequences = [row[:length] for row, length in zip(input_ids.cpu().numpy(), lengths.tolist(), strict=True)]
    order = lexicographic_order(sequences)
    whole = [len(sequences[row]) for row in order]
    shared = [common_prefix(sequences[a], sequences[b]) for a, b in itertools.pairwise(order)]
    added = [length - prefix for length, prefix in zip(whole, [0, *shared], strict=True)]
    parts = _balanced(whole, added, limits, ranks)
    parts.sort(key=lambda part: part.tokens)
    mine = [torch.tensor(order[part.start : part.stop], device=lengths.device) for part in parts[rank::ranks]]
    per_rank = -(-len(parts) // ranks)
    nothing = torch.zeros(0, dtype=torch.long, device=lengths.device)
    return mine + [nothing] * (per_rank - len(mine))


@dataclass(frozen=True)
class _Part:
    """A run of rows in order, and its distinct tokens."""

    start: int
    stop: int
    tokens: int


def _balanced(whole: Sequence[int], added: Sequence[int], limits: MicroBatchLimits, ranks: int) -> list[_Part]:
    """Cut the rows into as few parts as may be, a multiple of the ranks at most, the biggest as small as may be."""
    parts = _cut(whole, added, limits, None)
    count = -(-len(parts) // ranks) * ranks
    low, high = max(whole), max(part.tokens for part in parts)
    while low < high:
        middle = (low + high) // 2
        tried = _cut(whole, added, limits, middle)
        if len(tried) <= count:
            parts, high = tried, middle
        else:
            low = middle + 1
    return parts


def _cut(whole: Sequence[int], added: Sequence[int], limits: MicroBatchLimits, most: int | None) -> list[_Part]:
    """Fill one part after the other, each with at most so many tokens.

    Args:
        whole: Tokens of each row.
        added: Those that it does not share with the row before.
        limits: Of a part.
        most: Tokens of a part; None is any number.
    """
    parts, start, tokens = [], 0, 0
    for row in range(len(whole)):
        more = tokens + added[row]
        if row > start and not (limits.allow(row - start + 1, more) and (most is None or more <= most)):
            parts.append(_Part(start, row, tokens))
            start, more = row, whole[row]
        elif row == start:
            more = whole[row]
        tokens = more
    return [*parts, _Part(start, len(whole), tokens)]

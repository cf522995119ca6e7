"""Which rows go into which mini-batch and micro-batch, on which rank."""

import pytest
import torch

from llds.batches.micro_batches import MicroBatchLimits, packed_micro_batches, padded_micro_batches
from llds.batches.mini_batches import mini_batches
from llds.batches.prefix_tree import PrefixTree


def rows(groups: int = 5, members: int = 8, prompt: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """Groups that share a prompt, whose trajectories are of very different length, in mixed order."""
    generator = torch.Generator().manual_seed(0)
    lengths = prompt + torch.randint(1, 60, (groups * members,), generator=generator)
    ids = torch.randint(1, 1000, (groups * members, int(lengths.max())), generator=generator)
    for group in range(groups):
        ids[group::groups, :prompt] = ids[group, :prompt].clone()
    return ids, lengths


def deal(is_packed: bool, limits: MicroBatchLimits, ranks: int) -> list[list[torch.Tensor]]:
    ids, lengths = rows()
    return [
        packed_micro_batches(ids, lengths, limits, rank, ranks)
        if is_packed
        else padded_micro_batches(lengths, limits, rank, ranks)
        for rank in range(ranks)
    ]


def tokens(is_packed: bool, part: torch.Tensor) -> int:
    ids, lengths = rows()
    if not len(part):
        return 0
    if is_packed:
        return len(PrefixTree.build(ids[part], lengths[part]))
    return len(part) * int(lengths[part].max())


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("limits", [(1, None), (7, None), (100, None), (100, 300), (6, 200), (100, 1)])
@pytest.mark.parametrize("is_packed", [True, False], ids=["packed", "padded"])
def test_each_row_once_within_the_limits_equally_often(
    is_packed: bool, limits: tuple[int, int | None], ranks: int
) -> None:
    dealt = deal(is_packed, MicroBatchLimits(*limits), ranks)
    assert len({len(parts) for parts in dealt}) == 1
    everything = torch.cat([part for parts in dealt for part in parts]).tolist()
    assert sorted(everything) == list(range(40))
    for part in (part for parts in dealt for part in parts):
        assert len(part) <= limits[0]
        assert len(part) <= 1 or limits[1] is None or tokens(is_packed, part) <= limits[1]


def test_groups_stay_together() -> None:
    [parts] = deal(True, MicroBatchLimits(8), 1)
    assert [sorted({row % 5 for row in part.tolist()}) for part in parts].count([0]) == 1
    assert all(len({row % 5 for row in part.tolist()}) == 1 for part in parts)


@pytest.mark.parametrize("is_packed", [True, False], ids=["packed", "padded"])
def test_ranks_that_run_at_the_same_time_have_about_as_many_tokens(is_packed: bool) -> None:
    dealt = deal(is_packed, MicroBatchLimits(6), 2)
    totals = [sum(tokens(is_packed, part) for part in parts) for parts in dealt]
    assert max(totals) < 1.15 * min(totals)


def test_a_token_budget_is_used() -> None:
    [parts] = deal(True, MicroBatchLimits(100, 1000), 1)
    ids, lengths = rows()
    least = len(PrefixTree.build(ids, lengths))
    assert len(parts) <= least // 1000 + 2


def test_equal_rows_are_limited_too() -> None:
    ids, lengths = torch.ones(10, 5, dtype=torch.long), torch.full((10,), 5)
    parts = packed_micro_batches(ids, lengths, MicroBatchLimits(4), 0, 1)
    assert sorted(len(part) for part in parts) == [2, 4, 4]


GROUPS = torch.arange(6).repeat_interleave(3)


def test_mini_batches_hold_whole_groups_once() -> None:
    parts = mini_batches(GROUPS, 3, (0, 0, 0))
    assert [len(part) for part in parts] == [6, 6, 6]
    assert sorted(torch.cat(parts).tolist()) == list(range(18))
    groups = [set(GROUPS[part].tolist()) for part in parts]
    assert sum(len(group) for group in groups) == 6


def test_their_order_is_that_of_the_seed() -> None:
    def order(*seed: int) -> tuple[int, ...]:
        return tuple(torch.cat(mini_batches(GROUPS, 3, seed)).tolist())

    assert order(0, 1, 2) == order(0, 1, 2)
    assert len({order(0, iteration, epoch) for iteration in range(3) for epoch in range(3)}) > 6


def test_groups_that_are_left_after_failures_are_spread_over_as_many_steps_as_they_fill() -> None:
    parts = mini_batches(torch.tensor([0, 0, 1, 1, 1]), 4, (0,))
    assert sorted(part.tolist() for part in parts) == [[0, 1], [2, 3, 4]]

"""Mini-batches hold whole groups, each once, in an order that repeats."""

import torch

from llds.batches.mini_batches import mini_batches

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

"""Without a process group there is one rank, and what several do is in tests/integration/test_two_ranks.py."""

import pytest
import torch

from llds.strategies import gather, gathered, is_partitioned, rank, together, world_size


def test_one_rank_is_alone() -> None:
    assert (rank(), world_size()) == (0, 1)
    assert gather("value") == ["value"]
    assert together(lambda: 3) == [3]


def test_an_error_comes_out_as_it_was_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        together(lambda: 1 // 0)


def test_plain_parameters_need_no_gathering() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    assert not is_partitioned(parameter)
    with gathered([parameter], writes=True):
        assert parameter.sum() == 2

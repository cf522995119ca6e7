"""The lagged anchor is as old as it says, and leaves the policy's weights alone."""

import pytest
import torch
from torch import nn

from llds.errors import ConfigurationError
from llds.modules import LaggedAnchor


def policy_at(iteration: int) -> nn.Linear:
    """A policy whose weight is the number of its iteration."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, iteration)
    return layer


@pytest.mark.parametrize("lag", [1, 2, 3])
def test_the_anchor_is_between_lag_and_twice_the_lag_iterations_old(lag: int) -> None:
    anchor = LaggedAnchor(lag)
    for iteration in range(12):
        policy = policy_at(iteration)
        anchor.advance(iteration, policy)
        with anchor.applied(policy):
            age = iteration - policy.weight.item()
        assert policy.weight.item() == iteration
        if iteration >= lag:
            assert lag <= age <= 2 * lag - 1
        else:
            assert age == iteration  # the initial policy


def test_its_state_goes_on_where_it_stopped() -> None:
    first, second = LaggedAnchor(2), LaggedAnchor(2)
    for iteration in range(5):
        first.advance(iteration, policy_at(iteration))
    second.load_state_dict(first.state_dict())
    for anchor in (first, second):
        anchor.advance(6, policy_at(6))
    assert torch.equal(first.anchor["weight"], second.anchor["weight"])
    assert float(second.anchor["weight"]) == 4


def test_an_iteration_that_begins_twice_takes_one_snapshot() -> None:
    anchor = LaggedAnchor(2)
    for iteration in (0, 2, 2, 4, 4):  # interrupted while it was scored, and begun again after the resume
        anchor.advance(iteration, policy_at(iteration))
    assert anchor.anchor["weight"].item() == 2


def test_a_snapshot_is_not_lost_with_the_iteration_that_it_was_due_in() -> None:
    anchor = LaggedAnchor(2)
    for iteration in (0, 1, 3, 4, 5):  # nothing was left to train on in iteration 2
        anchor.advance(iteration, policy_at(iteration))
    assert (anchor.anchor["weight"].item(), anchor.next["weight"].item()) == (3, 5)


def test_weights_come_back_after_an_error() -> None:
    anchor, policy = LaggedAnchor(1), policy_at(3)
    anchor.advance(0, policy_at(0))

    def fail() -> None:
        with anchor.applied(policy):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert policy.weight.item() == 3


def test_a_lag_below_one_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="anchor_lag"):
        LaggedAnchor(0)

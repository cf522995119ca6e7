"""Group advantages: hand arithmetic, properties, oracle, bad input."""

import math

import pytest
import torch

from llds.errors import ConfigurationError
from llds.losses import group_advantages
from tests import oracles


def test_one_right_of_four_by_hand(hand):
    # mean 1/4; squared offsets 9/16 + 3 * 1/16 = 12/16; std (ddof 1) = sqrt(0.75 / 3) = 0.5
    # right: 0.75 / (0.5 + 1e-6) = 1.499997; wrong: -0.25 / (0.5 + 1e-6) = -0.499999
    got = group_advantages(torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64), ["a"] * 4)
    assert got.tolist() == pytest.approx([1.499997, -0.499999, -0.499999, -0.499999], abs=hand)


def test_without_scale_it_is_the_reward_minus_the_mean(exact):
    got = group_advantages(torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64), ["a"] * 4, scale="none")
    assert got.tolist() == pytest.approx([0.75, -0.25, -0.25, -0.25], abs=exact)


@pytest.mark.parametrize("reward", [0.1, 1 / 3, 1.0, 1e9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [3, 5, 7])
def test_equal_rewards_give_exactly_zero(reward, dtype, size):
    got = group_advantages(torch.full((size,), reward, dtype=dtype), ["a"] * size)
    assert got.tolist() == [0.0] * size


@pytest.mark.parametrize("scale", ["std", "none"])
def test_matches_the_oracle_with_groups_in_any_order(scale, exact):
    ids = ["b", "a", "b", "c", "a", "c", "b", "c"]
    rewards = torch.randn(8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = oracles.group_advantages(rewards.tolist(), ids, scale)
    assert group_advantages(rewards, ids, scale=scale).tolist() == pytest.approx(expected, abs=exact)


def test_ids_may_be_a_tensor_or_any_hashables():
    rewards = torch.tensor([1.0, 0.0, 1.0, 0.5])
    by_tensor = group_advantages(rewards, torch.tensor([7, 7, -1, -1]))
    assert torch.equal(by_tensor, group_advantages(rewards, [("x", 1), ("x", 1), None, None]))


def test_integers_become_floats_and_dtypes_are_kept():
    assert group_advantages(torch.tensor([1, 0]), ["a", "a"]).dtype == torch.float32
    assert group_advantages(torch.tensor([1.0, 0.0], dtype=torch.float64), ["a", "a"]).dtype == torch.float64
    assert group_advantages(torch.zeros(0), []).shape == (0,)


def test_a_group_of_one_is_refused_with_its_place():
    with pytest.raises(ConfigurationError, match=r"group of one \('lonely' at position 2\)"):
        group_advantages(torch.tensor([1.0, 0.0, 1.0]), ["a", "a", "lonely"])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_not_finite_is_refused_with_its_place(bad):
    with pytest.raises(ConfigurationError, match=r"at position 1 \(group 'a'\)"):
        group_advantages(torch.tensor([1.0, bad, 0.0]), ["a", "a", "a"])


def test_bad_settings_are_refused():
    rewards = torch.tensor([1.0, 0.0])
    with pytest.raises(ConfigurationError, match="scale"):
        group_advantages(rewards, ["a", "a"], scale="mad")
    with pytest.raises(ConfigurationError, match="eps"):
        group_advantages(rewards, ["a", "a"], eps=0.0)
    with pytest.raises(ConfigurationError, match="one reward per group id"):
        group_advantages(rewards, ["a"])

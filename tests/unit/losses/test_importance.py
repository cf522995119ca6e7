"""Truncated importance sampling: hand arithmetic, oracle, what it leaves alone, bad input."""

import math
from dataclasses import replace

import pytest
import torch

from llds.errors import ConfigurationError
from llds.losses import (
    GRPOLoss,
    GSPOLoss,
    ImportanceCorrection,
    KLPenalty,
    LLDSPenalty,
    grpo_loss,
    gspo_loss,
    importance_weights,
)
from tests import oracles


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


def behavior_of(batch, seed=1):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(batch.old_log_probs.shape, generator=generator, dtype=torch.float64)
    return batch.old_log_probs + 0.5 * noise


def test_token_weights_by_hand(hand):
    # old / behavior: 0.5 / 0.25 = 2 -> capped at 1.5; 0.2 / 0.4 = 0.5; off the actions: 1
    old, behavior = f64([[0.5, 0.2, 0.9]]).log(), f64([[0.25, 0.4, 0.1]]).log()
    weights = importance_weights(old, behavior, torch.tensor([[0, 1, -1]]), cap=1.5)
    assert weights.tolist() == [pytest.approx([1.5, 0.5, 1.0], abs=hand)]


def test_sequence_weights_by_hand(hand):
    # row 0: 2 * 0.6 = 1.2, on both its tokens; row 1: 3 -> capped at 2; row 2 has no action
    old, behavior = torch.zeros(3, 2, dtype=torch.float64), -f64([[2, 0.6], [3, 7], [5, 5]]).log()
    weights = importance_weights(old, behavior, torch.tensor([[0, 1], [0, -1], [-1, -1]]), level="sequence", cap=2.0)
    assert weights.flatten().tolist() == pytest.approx([1.2, 1.2, 2.0, 1.0, 1.0, 1.0], abs=hand)


def test_grpo_with_weights_by_hand(hand):
    # A = 1, ratios 1: each surrogate is 1, weighted 0.5 and 2: mean 1.25. Gradient: -weight / 2 tokens
    log_probs = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    loss = grpo_loss(log_probs, log_probs.detach(), f64([1.0]), torch.tensor([[0, 0]]), weights=f64([[0.5, 2.0]])).loss
    assert loss.item() == pytest.approx(-1.25, abs=hand)
    assert torch.autograd.grad(loss, log_probs)[0].tolist() == [pytest.approx([-0.25, -1.0], abs=hand)]


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("cap", [1.0, 1.3, 100.0])
def test_weights_and_losses_agree_with_the_oracle(make_batch, level, cap, exact):
    for seed in range(5):
        batch = make_batch(seed)
        behavior = behavior_of(batch)
        weights = importance_weights(batch.old_log_probs, behavior, batch.action_index, level=level, cap=cap)
        tables = [t.tolist() for t in (batch.old_log_probs, behavior, batch.action_index)]
        expected = oracles.importance_weights(*tables, level=level, cap=cap)
        assert torch.allclose(weights, f64(expected), atol=exact, rtol=0)
        tensors = (batch.log_probs, batch.old_log_probs, batch.advantages, batch.action_index)
        lists = [tensor.tolist() for tensor in tensors]
        for aggregation in ("trajectory", "token"):
            loss = grpo_loss(*tensors, weights=weights, aggregation=aggregation).loss
            assert loss.item() == pytest.approx(
                oracles.grpo(*lists, aggregation=aggregation, weights=expected), abs=exact
            )
        loss = gspo_loss(*tensors, weights=weights).loss
        assert loss.item() == pytest.approx(oracles.gspo(*lists, weights=expected), abs=exact)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_a_sampler_that_is_the_old_policy_changes_nothing(make_batch, level):
    batch = make_batch()
    weights = importance_weights(batch.old_log_probs, batch.old_log_probs, batch.action_index, level=level)
    tensors = (batch.log_probs, batch.old_log_probs, batch.advantages, batch.action_index)
    assert torch.equal(weights, torch.ones_like(weights))
    assert torch.equal(grpo_loss(*tensors, weights=weights).loss, grpo_loss(*tensors).loss)


def test_the_correction_recovers_the_old_policys_expectation():
    # two tokens, old policy (0.7, 0.3), sampled from (0.5, 0.5): E_mu[w f] = E_old[f] for f = (1, 4): 0.7 + 1.2 = 1.9
    old, behavior = f64([[0.7], [0.3]]).log(), f64([[0.5], [0.5]]).log()
    weights = importance_weights(old, behavior, torch.zeros(2, 1, dtype=torch.long), cap=10.0)
    assert (0.5 * weights.flatten() * f64([1.0, 4.0])).sum().item() == pytest.approx(1.9)


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("fill", [math.nan, math.inf, -1e30])
def test_whatever_is_off_the_actions_has_no_effect(make_batch, level, fill):
    batch = make_batch()
    behavior, mask = behavior_of(batch), batch.action_index >= 0
    dirty = [torch.where(mask, values, fill) for values in (batch.log_probs, batch.old_log_probs, behavior)]
    clean = importance_weights(batch.old_log_probs, behavior, batch.action_index, level=level)
    weights = importance_weights(dirty[1], dirty[2], batch.action_index, level=level)
    assert torch.equal(weights, clean)
    log_probs = dirty[0].requires_grad_()
    loss = grpo_loss(log_probs, dirty[1], batch.advantages, batch.action_index, weights=weights).loss
    gradient = torch.autograd.grad(loss, log_probs)[0]
    assert torch.isfinite(gradient).all()
    assert not gradient[~mask].any()


def test_no_gradient_flows_through_the_weights(make_batch):
    batch = make_batch()
    old, behavior = batch.old_log_probs.clone().requires_grad_(), behavior_of(batch).requires_grad_()
    assert not importance_weights(old, behavior, batch.action_index).requires_grad


def test_a_long_trajectory_far_from_its_sampler_stays_finite():
    old, index = torch.zeros(1, 5000), torch.zeros(1, 5000, dtype=torch.long)
    for behavior, expected in ((-1.0, 2.0), (1.0, 0.0)):
        weights = importance_weights(old, torch.full((1, 5000), behavior), index, level="sequence")
        assert weights.unique().tolist() == [expected]


def test_policy_losses_take_the_weights_and_penalties_leave_them(make_batch):
    batch = make_batch()
    inputs = batch.inputs()
    doubled = replace(inputs, loss_weights=torch.full_like(batch.log_probs, 2.0))
    for policy_loss in (GRPOLoss(), GSPOLoss()):
        assert policy_loss(doubled).loss.item() == pytest.approx(2 * policy_loss(inputs).loss.item())
    for penalty in (KLPenalty(), LLDSPenalty()):
        assert torch.equal(penalty(doubled).loss, penalty(inputs).loss)


@pytest.mark.parametrize("cap", [0.5, math.nan, math.inf])
def test_a_cap_that_cannot_be_meant_is_refused(cap):
    with pytest.raises(ConfigurationError, match="`cap`"):
        ImportanceCorrection(cap=cap)


def test_an_unknown_level_is_refused():
    with pytest.raises(ConfigurationError, match="`level`"):
        ImportanceCorrection(level="turn")

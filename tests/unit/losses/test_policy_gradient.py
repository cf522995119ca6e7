"""GRPO and GSPO: hand arithmetic, properties of style section 4, oracle, gradcheck, bad input."""

import math

import pytest
import torch

from llds.errors import ConfigurationError
from llds.losses import GRPOLoss, GSPOLoss, grpo_loss, gspo_loss
from tests import oracles


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


def grad_of(loss, log_probs):
    return torch.autograd.grad(loss, log_probs)[0]


def from_ratios(ratios):
    """Log-probs whose ratio to old log-probs of 0 is as given."""
    return f64(ratios).log().requires_grad_(), torch.zeros(len(ratios), len(ratios[0]), dtype=torch.float64)


def test_grpo_by_hand(hand):
    # row 0, A = 1: ratios 1.5 -> clipped to 1.2; 0.9 -> 0.9; mean 1.05
    # row 1, A = -2, one token: ratio 0.5 -> clipped to 0.8 -> -1.6
    # loss = -(1.05 - 1.6) / 2 = 0.275
    log_probs, old = from_ratios([[1.5, 0.9], [0.5, 1.0]])
    out = grpo_loss(log_probs, old, f64([1.0, -2.0]), torch.tensor([[0, 0], [0, -1]]))
    assert out.loss.item() == pytest.approx(0.275, abs=hand)
    assert out.metrics["policy/clip_share"].item() == pytest.approx(2 / 3, abs=hand)
    # gradient: only the 0.9 token is unclipped: -A * ratio / |y| / G = -0.9 / 2 / 2 = -0.225
    assert grad_of(out.loss, log_probs).flatten().tolist() == pytest.approx([0, -0.225, 0, 0], abs=hand)


def test_grpo_by_hand_token_aggregation(hand):
    # the three surrogates of the test above: 1.2 + 0.9 - 1.6 = 0.5; loss = -0.5 / 3
    log_probs, old = from_ratios([[1.5, 0.9], [0.5, 1.0]])
    out = grpo_loss(log_probs, old, f64([1.0, -2.0]), torch.tensor([[0, 0], [0, -1]]), aggregation="token")
    assert out.loss.item() == pytest.approx(-0.166667, abs=hand)


def test_gspo_by_hand(hand):
    # row 0, A = 1: mean log-ratio (ln 4 + ln 1) / 2 = ln 2 -> s = 2, clipped to 1.2
    # row 1, A = -2: (ln 1.1 + ln 0.99) / 2 -> s = sqrt(1.089) = 1.043552 -> -2.087104
    # loss = -(1.2 - 2.087104) / 2 = 0.443552
    log_probs, old = from_ratios([[4.0, 1.0], [1.1, 0.99]])
    out = gspo_loss(log_probs, old, f64([1.0, -2.0]), torch.zeros(2, 2, dtype=torch.long))
    assert out.loss.item() == pytest.approx(0.443552, abs=hand)
    # gradient of row 1: -A * s / |y| / G = 2 * 1.043552 / 2 / 2 = 0.521776 on both tokens; row 0 is clipped
    assert grad_of(out.loss, log_probs).flatten().tolist() == pytest.approx([0, 0, 0.521776, 0.521776], abs=hand)


@pytest.mark.parametrize("loss", [grpo_loss, gspo_loss])
def test_on_policy_the_gradient_is_reinforce(make_batch, loss, exact):
    batch = make_batch()
    log_probs = batch.old_log_probs.clone().requires_grad_()
    grad = grad_of(loss(log_probs, batch.old_log_probs, batch.advantages, batch.action_index).loss, log_probs)
    mask = batch.action_index >= 0
    rows = mask.any(1).sum()
    reinforce = -(batch.advantages[:, None] * mask / mask.sum(1, keepdim=True).clamp(min=1)) / rows
    assert torch.allclose(grad, reinforce, atol=exact, rtol=0)


@pytest.mark.parametrize("loss", [grpo_loss, gspo_loss])
def test_zero_advantages_give_zero_gradient(make_batch, loss):
    batch = make_batch()
    log_probs = batch.log_probs.requires_grad_()
    out = loss(log_probs, batch.old_log_probs, torch.zeros_like(batch.advantages), batch.action_index)
    assert out.loss.item() == 0
    assert not grad_of(out.loss, log_probs).any()


@pytest.mark.parametrize("loss", [grpo_loss, gspo_loss])
@pytest.mark.parametrize(
    ("ratio", "advantage", "is_free"),
    [
        (1.35, 1.0, False),
        (1.25, 1.0, True),
        (0.5, 1.0, True),
        (0.8, -1.0, False),
        (0.85, -1.0, True),
        (3.0, -1.0, True),
    ],
)
def test_the_clip_binds_on_the_side_that_the_advantage_pushes_to(loss, ratio, advantage, is_free):
    log_probs, old = from_ratios([[ratio]])
    out = loss(log_probs, old, f64([advantage]), torch.zeros(1, 1, dtype=torch.long), clip_low=0.18, clip_high=0.3)
    assert (grad_of(out.loss, log_probs).item() != 0) == is_free
    assert out.metrics["policy/clip_share"].item() == float(not is_free)
    expected = ratio if is_free else (1.3 if advantage > 0 else 0.82)
    assert out.loss.item() == pytest.approx(-advantage * expected)


def test_max_ratio_limits_a_negative_advantage(hand):
    log_probs, old = from_ratios([[200.0, 50.0]])
    index = torch.zeros(1, 2, dtype=torch.long)
    out = grpo_loss(log_probs, old, f64([-1.0]), index, max_ratio=100.0)
    assert out.loss.item() == pytest.approx(75, abs=hand)  # (100 + 50) / 2
    assert grad_of(out.loss, log_probs).flatten().tolist() == pytest.approx([0, 25], abs=hand)
    plain = grpo_loss(log_probs, old, f64([-1.0]), index).loss
    assert plain.item() == pytest.approx(125, abs=hand)  # (200 + 50) / 2


def test_an_overflowing_ratio_that_is_clipped_gives_a_finite_gradient():
    log_probs = torch.tensor([[200.0, -1.0]], requires_grad=True)  # exp(200) is inf in float32
    index = torch.zeros(1, 2, dtype=torch.long)
    for advantage, limit in ((1.0, None), (0.0, None), (-1.0, 100.0)):
        out = grpo_loss(log_probs, torch.zeros(1, 2), torch.tensor([advantage]), index, max_ratio=limit)
        assert torch.isfinite(out.loss)
        assert torch.isfinite(grad_of(out.loss, log_probs)).all()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("aggregation", ["trajectory", "token"])
def test_grpo_matches_the_oracle(make_batch, seed, aggregation, exact):
    batch = make_batch(seed)
    arguments = (batch.log_probs, batch.old_log_probs, batch.advantages, batch.action_index)
    got = grpo_loss(*arguments, clip_low=0.1, clip_high=0.3, aggregation=aggregation, max_ratio=2.0).loss
    expected = oracles.grpo(*(x.tolist() for x in arguments), 0.1, 0.3, aggregation, 2.0)
    assert got.item() == pytest.approx(expected, abs=exact)


@pytest.mark.parametrize("seed", range(4))
def test_gspo_matches_the_oracle(make_batch, seed, exact):
    batch = make_batch(seed)
    arguments = (batch.log_probs, batch.old_log_probs, batch.advantages, batch.action_index)
    got = gspo_loss(*arguments, clip_low=0.02, clip_high=0.03).loss
    assert got.item() == pytest.approx(oracles.gspo(*(x.tolist() for x in arguments), 0.02, 0.03), abs=exact)


@pytest.mark.parametrize("loss", [grpo_loss, gspo_loss])
def test_gradcheck(make_batch, loss):
    batch = make_batch(5, n_rows=4, n_tokens=10)
    rest = (batch.old_log_probs, batch.advantages, batch.action_index)
    assert torch.autograd.gradcheck(lambda x: loss(x, *rest).loss, batch.log_probs.requires_grad_())


def test_gradients_flow_to_the_policy_only(make_batch):
    batch = make_batch()
    old, advantages = batch.old_log_probs.requires_grad_(), batch.advantages.requires_grad_()
    out = grpo_loss(batch.log_probs.requires_grad_(), old, advantages, batch.action_index)
    out.loss.backward()
    assert old.grad is None
    assert advantages.grad is None


def test_the_classes_compute_the_functions_with_their_settings(make_batch):
    inputs = make_batch().inputs()
    arguments = (inputs.log_probs, inputs.old_log_probs, inputs.advantages, inputs.action_index)
    grpo = GRPOLoss(clip_low=0.05, clip_high=0.1, aggregation="token", max_ratio=1.2)
    expected = grpo_loss(*arguments, clip_low=0.05, clip_high=0.1, aggregation="token", max_ratio=1.2)
    assert torch.equal(grpo(inputs).loss, expected.loss)
    assert torch.equal(GSPOLoss()(inputs).loss, gspo_loss(*arguments, clip_low=3e-4, clip_high=4e-4).loss)
    assert grpo.denominator(inputs) == (inputs.action_index >= 0).sum()
    assert GSPOLoss().denominator(inputs) == 6  # of 7 rows, one never acts


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"clip_low": 0.0}, "clip_low"),
        ({"clip_low": 1.1}, "clip_low"),
        ({"clip_high": -0.1}, "clip_high"),
        ({"clip_high": math.nan}, "clip_high"),
        ({"max_ratio": 1.1}, "max_ratio"),
        ({"aggregation": "sum"}, "aggregation"),
        ({"coefficient": -1.0}, "coefficient"),
    ],
)
def test_bad_settings_are_refused(settings, word):
    with pytest.raises(ConfigurationError, match=word):
        GRPOLoss(**settings)


def test_tensors_that_would_broadcast_are_refused():
    index = torch.zeros(2, 3, dtype=torch.long)
    with pytest.raises(ConfigurationError, match=r"`old_log_probs` of shape \[2, 3\]"):
        grpo_loss(torch.zeros(2, 3), torch.zeros(1, 3), torch.zeros(2), index)
    with pytest.raises(ConfigurationError, match=r"`advantages` of shape \[2\]"):
        gspo_loss(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 1), index)

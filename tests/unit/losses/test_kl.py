"""KL penalty: hand arithmetic, properties, oracle, gradcheck, bad input."""

import dataclasses
import math

import pytest
import torch

from llds.errors import ConfigurationError
from llds.losses import KLPenalty, kl_penalty
from tests import oracles

ESTIMATORS = ["k1", "k2", "k3"]


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("estimator", "expected", "gradients"),
    [
        # d = ref - policy = ln 2 and -ln 2 = +-0.693147
        ("k1", 0.0, [0.5, 0.5]),  # (-ln 2 + ln 2) / 2; d/dlogp of -d is 1, over two tokens
        ("k2", 0.240227, [-0.346574, 0.346574]),  # ln(2)^2 / 2; gradient -d / 2
        ("k3", 0.25, [-0.5, 0.25]),  # (2 - ln 2 - 1 + 0.5 + ln 2 - 1) / 2; gradient (1 - e^d) / 2
    ],
)
def test_by_hand(estimator, expected, gradients, hand):
    log_probs = f64([[-1.0, -1.0]]).requires_grad_()
    ref = f64([[-1.0 + math.log(2), -1.0 - math.log(2)]])
    out = kl_penalty(log_probs, ref, torch.zeros(1, 2, dtype=torch.long), estimator=estimator)
    out.loss.backward()
    assert out.loss.item() == pytest.approx(expected, abs=hand)
    assert out.metrics["policy/kl"].item() == pytest.approx(expected, abs=hand)
    assert log_probs.grad.flatten().tolist() == pytest.approx(gradients, abs=hand)


def test_k3_is_never_negative_and_zero_at_the_reference(make_batch, exact):
    for seed in range(3):
        batch = make_batch(seed, spread=2.0)
        index = torch.zeros_like(batch.action_index)[:, :1]
        for column in range(batch.log_probs.shape[1]):
            part = slice(column, column + 1)
            assert kl_penalty(batch.log_probs[:, part], batch.ref_log_probs[:, part], index).loss >= 0
    log_probs = batch.ref_log_probs.clone().requires_grad_()
    loss = kl_penalty(log_probs, batch.ref_log_probs, batch.action_index).loss
    assert loss.item() == pytest.approx(0, abs=exact)
    assert torch.autograd.grad(loss, log_probs)[0].abs().max() <= exact


def test_k3_is_clamped_at_10_even_where_its_exponential_overflows():
    # d = 3: e^3 - 4 = 16.1 -> 10; d = -12: e^-12 + 11 = 11.0 -> 10; d = 300: overflow -> 10
    log_probs = torch.tensor([[-4.0, -1.0, -301.0]], requires_grad=True)
    ref = torch.tensor([[-1.0, -13.0, -1.0]])
    loss = kl_penalty(log_probs, ref, torch.zeros(1, 3, dtype=torch.long)).loss
    assert loss.item() == 10
    assert torch.autograd.grad(loss, log_probs)[0].tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("aggregation", ["trajectory", "token"])
@pytest.mark.parametrize("seed", range(3))
def test_matches_the_oracle(make_batch, estimator, aggregation, seed, exact):
    batch = make_batch(seed, spread=1.5)
    arguments = (batch.log_probs, batch.ref_log_probs, batch.action_index)
    got = kl_penalty(*arguments, estimator=estimator, aggregation=aggregation).loss.item()
    expected = oracles.kl(*(x.tolist() for x in arguments), estimator, aggregation)
    assert got == pytest.approx(expected, abs=exact)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradcheck(make_batch, estimator):
    batch = make_batch(4, n_rows=4, n_tokens=10)
    rest = (batch.ref_log_probs, batch.action_index)
    log_probs = batch.log_probs.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: kl_penalty(x, *rest, estimator=estimator).loss, log_probs)


def test_the_class_computes_the_function_with_its_settings(make_batch):
    inputs = make_batch().inputs()
    loss = KLPenalty(estimator="k2", aggregation="token")
    arguments = (inputs.log_probs, inputs.ref_log_probs, inputs.action_index)
    expected = kl_penalty(*arguments, estimator="k2", aggregation="token")
    assert torch.equal(loss(inputs).loss, expected.loss)
    assert loss.coefficient == 1e-3
    assert loss.denominator(inputs) == (inputs.action_index >= 0).sum()
    assert KLPenalty().denominator(inputs) == 6


def test_bad_settings_and_a_missing_reference_are_refused(make_batch):
    with pytest.raises(ConfigurationError, match="estimator"):
        KLPenalty(estimator="k4")
    with pytest.raises(ConfigurationError, match="coefficient"):
        KLPenalty(coefficient=math.nan)
    with pytest.raises(ConfigurationError, match="ref_log_probs"):
        KLPenalty()(dataclasses.replace(make_batch().inputs(), ref_log_probs=None))

"""LLDS: hand arithmetic, properties of style section 4, oracle, gradcheck, bad input."""

import itertools
from dataclasses import replace

import pytest
import torch

from llds.errors import ConfigurationError
from llds.losses import AnswerMasking, LLDSPenalty, grpo_loss, llds_penalty
from tests import oracles

GATES = ["token", "response", "action"]

# One trajectory of two actions (and a prompt and an observation token). Delta = old - new:
#   action 0: +0.3, -0.1  -> sum +0.2: open
#   action 1: +0.2, -0.6  -> sum -0.4: shut; the response: -0.2: shut
FALLS = [9.0, 0.3, -0.1, 9.0, 0.2, -0.6]
INDEX = [-1, 0, 0, -1, 1, 1]


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


def from_falls(falls):
    """Log-probs that fell by as much from old log-probs of -1."""
    old = torch.full_like(f64(falls), -1.0)
    return (old - f64(falls)).requires_grad_(), old


def grad_of(loss, log_probs):
    return torch.autograd.grad(loss, log_probs)[0]


@pytest.mark.parametrize(
    ("gate", "expected", "gradients", "open_gates", "open_share"),
    [
        ("action", 0.075, [0, -0.25, 0, 0, 0, 0], 1, 0.5),  # 0.3 / 4 tokens
        ("response", 0.0, [0, 0, 0, 0, 0, 0], 0, 0.0),  # -0.2 in all
        ("token", 0.125, [0, -0.25, 0, 0, -0.25, 0], 4, 1.0),  # (0.3 + 0.2) / 4
    ],
)
def test_gates_by_hand(gate, expected, gradients, open_gates, open_share, hand):
    log_probs, old = from_falls([FALLS])
    out = llds_penalty(log_probs, old, f64([1.0]), torch.tensor([INDEX]), gate=gate)
    assert out.loss.item() == pytest.approx(expected, abs=hand)
    assert grad_of(out.loss, log_probs).flatten().tolist() == pytest.approx(gradients, abs=hand)
    assert out.metrics["llds/open_gates"] == open_gates
    assert out.metrics["llds/open_share"].item() == pytest.approx(open_share, abs=hand)
    assert out.metrics["llds/fallen_share"].item() == pytest.approx(0.5, abs=hand)
    assert out.metrics["llds/preserved"] == 1


def test_aggregations_by_hand(hand):
    # rows: A = 1 with falls 0.4 (1 token); A = 0 with falls 0.2, 0.2 (2 tokens); A = -1 with falls 5 (3 tokens)
    # trajectory: (0.4 / 1 + 0.4 / 2) / 2 preserved = 0.3; token: 0.8 / 6 action tokens = 0.133333
    log_probs, old = from_falls([[0.4, 7.0, 7.0], [0.2, 0.2, 7.0], [5.0, 5.0, 5.0]])
    index = torch.tensor([[0, -1, -1], [0, 0, -1], [0, 0, 0]])
    arguments = (log_probs, old, f64([1.0, 0.0, -1.0]), index)
    assert llds_penalty(*arguments).loss.item() == pytest.approx(0.3, abs=hand)
    assert llds_penalty(*arguments, aggregation="token").loss.item() == pytest.approx(0.133333, abs=hand)
    assert llds_penalty(*arguments).metrics["llds/mean_fall"].item() == pytest.approx(0.8 / 3, abs=hand)


def test_answer_tokens_weigh_beta_but_count_fully_in_the_gate(hand):
    # falls +0.3 and, in the answer, -0.1 and +0.2: sum 0.4, open: (0.3 + 0.5 * 0.2) / 3 = 0.133333
    # beta 0: the answer's +0.2 still opens the gate of [-0.1, +0.2], but adds nothing
    log_probs, old = from_falls([[0.3, -0.1, 0.2]])
    index, answer = torch.zeros(1, 3, dtype=torch.long), torch.tensor([[False, True, True]])
    out = llds_penalty(log_probs, old, f64([1.0]), index, answer_mask=answer, answer_weight=0.5)
    assert out.loss.item() == pytest.approx(0.133333, abs=hand)
    # beta 2: (0.3 + 2 * 0.2) / 3
    out = llds_penalty(log_probs, old, f64([1.0]), index, answer_mask=answer, answer_weight=2.0)
    assert out.loss.item() == pytest.approx(0.7 / 3, abs=hand)
    log_probs, old = from_falls([[0.05, -0.1, 0.2]])
    out = llds_penalty(log_probs, old, f64([1.0]), index, answer_mask=answer, answer_weight=0.0)
    assert out.loss.item() == pytest.approx(0.05 / 3, abs=hand)
    assert out.metrics["llds/open_gates"] == 1


@pytest.mark.parametrize("gate", GATES)
def test_it_is_zero_on_policy(make_batch, gate):
    batch = make_batch()
    log_probs = batch.old_log_probs.clone().requires_grad_()
    loss = llds_penalty(log_probs, batch.old_log_probs, batch.advantages, batch.action_index, gate=gate).loss
    assert loss.item() == 0
    assert not grad_of(loss, log_probs).any()


@pytest.mark.parametrize("gate", GATES)
def test_it_is_zero_when_every_token_rose(make_batch, gate):
    batch = make_batch()
    log_probs = (batch.old_log_probs + 0.1).requires_grad_()
    loss = llds_penalty(log_probs, batch.old_log_probs, batch.advantages, batch.action_index, gate=gate).loss
    assert loss.item() == 0
    assert not grad_of(loss, log_probs).any()


@pytest.mark.parametrize("gate", GATES)
def test_it_is_zero_for_negative_advantages(make_batch, gate):
    batch = make_batch()
    log_probs = (batch.old_log_probs - 0.5).requires_grad_()
    loss = llds_penalty(log_probs, batch.old_log_probs, -1 - batch.advantages**2, batch.action_index, gate=gate).loss
    assert loss.item() == 0
    assert not grad_of(loss, log_probs).any()


def test_an_advantage_of_zero_is_preserved_unless_only_positive_ones_are():
    log_probs, old = from_falls([[0.3]])
    arguments = (log_probs, old, f64([0.0]), torch.zeros(1, 1, dtype=torch.long))
    assert llds_penalty(*arguments).loss.item() == pytest.approx(0.3)
    assert llds_penalty(*arguments, preserve="positive").loss.item() == 0


@pytest.mark.parametrize("gate", ["action", "response"])
def test_a_gate_whose_sum_is_exactly_zero_is_shut(gate):
    log_probs, old = from_falls([[0.25, -0.25]])
    out = llds_penalty(log_probs, old, f64([1.0]), torch.zeros(1, 2, dtype=torch.long), gate=gate)
    assert out.loss.item() == 0
    assert out.metrics["llds/open_gates"] == 0


def test_the_response_gate_is_open_or_shut_for_each_trajectory(hand):
    # row 0: +0.5, -0.3 in two actions: sum 0.2, open; row 1: +0.1, -0.2: shut -> 0.5 / 2 / 2 preserved
    log_probs, old = from_falls([[0.5, -0.3], [0.1, -0.2]])
    out = llds_penalty(log_probs, old, f64([1.0, 1.0]), torch.tensor([[0, 1], [0, 1]]), gate="response")
    assert out.loss.item() == pytest.approx(0.125, abs=hand)
    assert out.metrics["llds/open_gates"] == 1


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("aggregation", ["trajectory", "token"])
def test_the_gradient_touches_only_fallen_tokens_and_raises_them(make_batch, gate, aggregation):
    batch = make_batch(3)
    arguments = (batch.old_log_probs, batch.advantages, batch.action_index)
    log_probs = batch.log_probs.requires_grad_()
    grad = grad_of(llds_penalty(log_probs, *arguments, gate=gate, aggregation=aggregation).loss, log_probs)
    fell = (batch.old_log_probs > log_probs) & (batch.action_index >= 0) & (batch.advantages >= 0)[:, None]
    assert grad.any()
    assert (grad[fell] <= 0).all()  # descending the gradient raises the likelihood
    assert not grad[~fell].any()


def test_a_token_that_did_not_move_is_not_pushed():
    log_probs, old = from_falls([[0.3, 0.0]])
    loss = llds_penalty(log_probs, old, f64([1.0]), torch.zeros(1, 2, dtype=torch.long)).loss
    assert grad_of(loss, log_probs).tolist() == [[-0.5, 0.0]]


def test_coefficient_zero_is_bit_equal_to_grpo(make_batch):
    inputs = make_batch().inputs()
    log_probs = inputs.log_probs.requires_grad_()
    llds = LLDSPenalty(coefficient=0.0)
    grpo = grpo_loss(log_probs, inputs.old_log_probs, inputs.advantages, inputs.action_index).loss
    both = grpo + llds.coefficient * llds(inputs).loss
    assert torch.equal(both, grpo)
    (expected,) = torch.autograd.grad(grpo, log_probs, retain_graph=True)
    assert torch.equal(grad_of(both, log_probs), expected)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("gate", "aggregation", "preserve"),
    list(itertools.product(GATES, ["trajectory", "token"], ["non_negative", "positive"])),
)
def test_matches_the_oracle(make_batch, seed, gate, aggregation, preserve, exact):
    batch = make_batch(seed)
    arguments = (batch.log_probs, batch.old_log_probs, batch.advantages, batch.action_index)
    settings = {"gate": gate, "aggregation": aggregation, "preserve": preserve, "answer_weight": 0.25}
    got = llds_penalty(*arguments, answer_mask=batch.answer_mask, **settings).loss.item()
    expected = oracles.llds(*(x.tolist() for x in arguments), answer_mask=batch.answer_mask.tolist(), **settings)
    assert expected > 0
    assert got == pytest.approx(expected, abs=exact)


@pytest.mark.parametrize("gate", GATES)
def test_gradcheck(make_batch, gate):
    batch = make_batch(6, n_rows=4, n_tokens=10)
    rest = (batch.old_log_probs, batch.advantages, batch.action_index)
    settings = {"gate": gate, "answer_mask": batch.answer_mask, "answer_weight": 0.3}
    log_probs = batch.log_probs.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: llds_penalty(x, *rest, **settings).loss, log_probs)


def test_gradients_flow_to_the_policy_only(make_batch):
    batch = make_batch()
    old, advantages = batch.old_log_probs.requires_grad_(), batch.advantages.requires_grad_()
    llds_penalty(batch.log_probs.requires_grad_(), old, advantages, batch.action_index).loss.backward()
    assert old.grad is None
    assert advantages.grad is None


def test_the_class_measures_falls_from_the_anchor_with_its_settings(make_batch):
    inputs = make_batch().inputs()
    loss = LLDSPenalty(gate="token", preserve="positive", aggregation="token", anchor="lagged")
    expected = llds_penalty(
        inputs.log_probs,
        inputs.anchor_log_probs,
        inputs.advantages,
        inputs.action_index,
        gate="token",
        preserve="positive",
        aggregation="token",
        answer_mask=inputs.answer_mask,
        answer_weight=inputs.answer_weight,
    )
    assert torch.equal(loss(inputs).loss, expected.loss)
    assert loss.denominator(inputs) == (inputs.action_index >= 0).sum()
    advantages = f64([1.0, 0.0, -1.0, 2.0, 3.0, 0.0, 5.0])  # the last row never acts
    assert LLDSPenalty().denominator(replace(inputs, advantages=advantages)) == 5
    assert LLDSPenalty(preserve="positive").denominator(replace(inputs, advantages=advantages)) == 3


@pytest.mark.parametrize("name", ["gate", "preserve", "anchor", "aggregation"])
def test_an_unknown_choice_is_refused(name):
    with pytest.raises(ConfigurationError, match=f"Expected `{name}` to be one of"):
        LLDSPenalty(**{name: "nonsense"})


@pytest.mark.parametrize(("searches", "beta"), [(0.0, 0.0), (0.5, 0.25), (2.0, 1.0), (3.0, 1.0)])
def test_the_papers_answer_weight_is_half_the_searches_at_most_1(searches, beta):
    assert AnswerMasking().weight(searches, 0.2) == beta


@pytest.mark.parametrize(
    ("searches", "beta"),
    # absolute min(max(V - 1, 0) * 0.1, 0.2): 0, 0.05, 0.1, 0.2; divided by lambda 0.2
    [(0.5, 0.0), (1.5, 0.25), (2.0, 0.5), (4.0, 1.0)],
)
def test_the_authors_answer_weight_is_absolute(searches, beta):
    assert AnswerMasking("authors", answer_lambda=0.1).weight(searches, 0.2) == pytest.approx(beta)
    assert AnswerMasking("authors").weight(searches, 0.0) == 0


def test_a_constant_answer_weight_and_bad_settings():
    assert AnswerMasking("constant", value=0.3).weight(5.0, 0.2) == 0.3
    for settings, word in (
        ({"value": -1.0}, "value"),
        ({"last_tokens": 0}, "last_tokens"),
        ({"schedule": "x"}, "schedule"),
    ):
        with pytest.raises(ConfigurationError, match=word):
            AnswerMasking(**settings)

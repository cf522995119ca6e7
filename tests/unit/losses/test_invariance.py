"""What must not change a loss or its gradient: micro-batches, padding, row order, anything off the actions."""

import math

import pytest
import torch

from llds.losses import GRPOLoss, GSPOLoss, KLPenalty, LLDSPenalty, grpo_loss

LOSSES = {
    "grpo": GRPOLoss(clip_low=0.1, clip_high=0.15),
    "grpo_token": GRPOLoss(aggregation="token", max_ratio=1.5),
    "gspo": GSPOLoss(clip_low=0.05, clip_high=0.05),
    "k1": KLPenalty(estimator="k1"),
    "k2_token": KLPenalty(estimator="k2", aggregation="token"),
    "k3": KLPenalty(),
    "llds_action": LLDSPenalty(),
    "llds_action_token": LLDSPenalty(aggregation="token"),
    "llds_response": LLDSPenalty(gate="response", preserve="positive"),
    "llds_token": LLDSPenalty(gate="token"),
}


@pytest.fixture(params=LOSSES)
def loss(request):
    return LOSSES[request.param]


def value_and_grad(loss, batch, denominator=None):
    """The loss and its gradient by `batch.log_probs`; fails where a NaN appears on the way back, masked or not."""
    batch.log_probs.requires_grad_(True)
    with torch.autograd.set_detect_anomaly(True):
        value = loss(batch.inputs(), denominator).loss
        (grad,) = torch.autograd.grad(value, batch.log_probs)
    batch.log_probs.requires_grad_(False)
    return value.detach(), grad


@pytest.mark.parametrize(
    "split", [[[0, 1, 2, 3], [4, 5, 6]], [[0], [1], [2], [3], [4], [5], [6]], [[6], [5, 0, 2, 1, 4, 3]]]
)
def test_micro_batches_with_the_global_denominator_add_up(make_batch, loss, split, exact):
    batch = make_batch(1)
    parts = [batch.rows(rows) for rows in split]
    denominator = sum(loss.denominator(part.inputs()) for part in parts)
    expected, expected_grad = value_and_grad(loss, batch)
    value, grad = torch.zeros_like(expected), torch.zeros_like(expected_grad)
    for rows, part in zip(split, parts, strict=True):
        share, grad[rows] = value_and_grad(loss, part, denominator)
        value += share
    assert expected != 0
    assert abs(value - expected) <= exact
    assert (grad - expected_grad).abs().max() <= exact


def test_the_denominator_may_be_a_number(make_batch, exact):
    batch = make_batch()
    arguments = (batch.log_probs, batch.old_log_probs, batch.advantages, batch.action_index)
    assert grpo_loss(*arguments, denominator=12.0).loss.item() == pytest.approx(
        grpo_loss(*arguments).loss.item() / 2,
        abs=exact,  # 6 rows act
    )


@pytest.mark.parametrize("fill", [0.0, math.nan, math.inf])
def test_padding_changes_nothing(make_batch, loss, fill, exact):
    batch = make_batch(2)
    expected, expected_grad = value_and_grad(loss, batch)
    value, grad = value_and_grad(loss, batch.padded(3, 5, fill))
    assert abs(value - expected) <= exact
    assert (grad[:, 3:-5] - expected_grad).abs().max() <= exact
    assert not grad[:, :3].any()
    assert not grad[:, -5:].any()


def test_row_order_changes_nothing(make_batch, loss, exact):
    batch = make_batch(3)
    order = [4, 6, 0, 2, 1, 5, 3]
    expected, expected_grad = value_and_grad(loss, batch)
    value, grad = value_and_grad(loss, batch.rows(order))
    assert abs(value - expected) <= exact
    assert (grad - expected_grad[order]).abs().max() <= exact


@pytest.mark.parametrize("fill", [123.0, -math.inf, math.inf, math.nan])
def test_nothing_off_the_actions_counts(make_batch, loss, fill):
    batch = make_batch(4)
    expected, expected_grad = value_and_grad(loss, batch)
    noisy = batch.filled(fill)
    noisy.advantages[6] = fill  # the row that never acts
    value, grad = value_and_grad(loss, noisy)
    assert torch.equal(value, expected)
    assert torch.equal(grad, expected_grad)


def test_metrics_are_detached_and_blind_off_the_actions(make_batch, loss):
    batch = make_batch(4)
    expected = loss(batch.inputs()).metrics
    metrics = loss(batch.filled(math.nan).inputs()).metrics
    assert expected
    for name, value in metrics.items():
        assert torch.equal(value, expected[name])
        assert not value.requires_grad


@pytest.mark.parametrize("shape", [(2, 3), (2, 0), (0, 3)])
@pytest.mark.parametrize("fill", [0.0, math.nan])
def test_an_empty_mask_gives_a_graph_connected_zero(loss, make_batch, shape, fill):
    batch = make_batch(n_rows=7, n_tokens=14).filled(fill).rows(slice(0, shape[0]))
    empty = type(batch)(
        *(value if value.ndim == 1 else value[:, : shape[1]].contiguous() for value in vars(batch).values())
    )
    empty.action_index.fill_(-1)
    value, grad = value_and_grad(loss, empty)
    assert value.item() == 0
    assert grad.shape == shape
    assert not grad.any()
    assert loss.denominator(empty.inputs()) == 0
    assert all(torch.isfinite(metric) for metric in loss(empty.inputs()).metrics.values())


def test_the_loss_is_differentiable_in_single_precision(make_batch, loss, single):
    batch = make_batch(5)
    expected, expected_grad = value_and_grad(loss, batch)
    half = type(batch)(*(v.float() if v.is_floating_point() else v for v in vars(batch).values()))
    value, grad = value_and_grad(loss, half)
    assert value.dtype == grad.dtype == torch.float32
    assert abs(value - expected) <= single
    assert (grad - expected_grad).abs().max() <= single

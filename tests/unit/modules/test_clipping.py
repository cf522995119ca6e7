"""Clipping against arithmetic in float64."""

import pytest
import torch
from torch import nn

from llds.modules.gradients import clip_gradients


def parameters() -> list[nn.Parameter]:
    """One large with a wide spread of gradients, one small, one without a gradient."""
    generator = torch.Generator().manual_seed(0)
    large, small, idle = (nn.Parameter(torch.zeros(shape)) for shape in ((8192, 16), (3,), (2,)))
    large.grad = torch.randn(large.shape, generator=generator) * torch.rand(8192, 1, generator=generator) ** 8
    small.grad = torch.tensor([1.0, -2.0, 2.0])
    return [large, small, idle]


def test_the_norm_is_right_to_the_last_digit_of_float32() -> None:
    made = parameters()
    expected = sum(float((p.grad.double() ** 2).sum()) for p in made if p.grad is not None) ** 0.5
    assert float(clip_gradients(made, float("inf"))) == pytest.approx(expected, rel=1e-12)


def test_gradients_are_scaled_to_the_norm_and_smaller_ones_left_alone() -> None:
    made, untouched = parameters(), parameters()
    norm = float(clip_gradients(made, 0.5))
    for parameter, before in zip(made[:2], untouched, strict=False):
        assert parameter.grad is not None
        assert before.grad is not None
        assert torch.allclose(parameter.grad, before.grad * 0.5 / norm, rtol=1e-5)
    clip_gradients(untouched, 1e4)
    assert untouched[1].grad is not None
    assert untouched[1].grad.tolist() == [1.0, -2.0, 2.0]


def test_without_gradients_the_norm_is_zero() -> None:
    assert float(clip_gradients([nn.Parameter(torch.ones(2))], 1.0)) == 0

"""The norm of Adam's step, recomputed from its state, against the weights before and after."""

import pytest
import torch

from llds.metrics import squared_adam_update, update_norm


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("steps", [1, 5])
def test_it_is_the_change_of_the_weights(weight_decay: float, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update_norm, "_CHUNK", 7)
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in ((5, 3), (4,))]
    unused = torch.nn.Parameter(torch.randn(3))
    optimizer = torch.optim.AdamW([*weights, unused], lr=0.01, betas=(0.8, 0.9), weight_decay=weight_decay)
    for step in range(steps):
        before = [weight.detach().clone() for weight in weights]
        optimizer.param_groups[0]["lr"] = 0.01 * (step + 1)
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        optimizer.step()
    change = sum(float((weight.detach() - old).square().sum()) for weight, old in zip(weights, before, strict=True))
    assert float(squared_adam_update(optimizer, 0.01 * steps)) == pytest.approx(change, rel=1e-9)


def test_before_the_first_step_it_is_zero() -> None:
    assert float(squared_adam_update(torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))]), 0.1)) == 0.0

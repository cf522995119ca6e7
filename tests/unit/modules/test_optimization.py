"""Settings of now take effect in an optimizer that a checkpoint restored; gradients are clipped."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from llds.modules import Optimization
from llds.modules.gradients import clip_gradients
from tests.runs import make_run

THEN = Optimization(learning_rate=1e-3, schedule="linear")
STEPS = 10


def restored(settings: Optimization, steps: int, taken: int = 4, cut: float = 1.0) -> tuple[Any, Any, list[str]]:
    """An optimizer and a schedule of `settings` that go on after steps of `THEN`, cut in between or not."""
    weights = [torch.nn.Parameter(torch.ones(2))]
    made = THEN.configure(weights, STEPS)
    for _ in range(taken):
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    schedule = made["lr_scheduler"]["scheduler"]
    schedule.base_lrs = [rate * cut for rate in schedule.base_lrs]
    states = made["optimizer"].state_dict(), schedule.state_dict()
    now = settings.configure(weights, steps)
    optimizer, schedule = now["optimizer"], now["lr_scheduler"]["scheduler"]
    optimizer.load_state_dict(states[0])
    schedule.load_state_dict(states[1])
    return optimizer, schedule, settings.go_on(optimizer.param_groups, schedule, THEN.course(STEPS), steps)


def test_without_a_change_nothing_is_touched() -> None:
    optimizer, schedule, changed = restored(THEN, STEPS)
    assert changed == []
    assert optimizer.param_groups[0]["lr"] == schedule.get_last_lr()[0] == pytest.approx(1e-3 * 6 / 10)


def test_a_changed_learning_rate_is_that_of_the_next_step_and_of_all_later_ones() -> None:
    optimizer, schedule, changed = restored(replace(THEN, learning_rate=5e-4), STEPS)
    assert changed == ["learning_rate 0.001 -> 0.0005"]
    assert optimizer.param_groups[0]["lr"] == schedule.get_last_lr()[0] == pytest.approx(5e-4 * 6 / 10)
    optimizer.step()
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(5e-4 * 5 / 10)


def test_a_cut_of_the_ladder_stays_a_cut() -> None:
    optimizer, _, _ = restored(replace(THEN, learning_rate=4e-3), STEPS, cut=0.5)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * 4e-3 * 6 / 10)


def test_a_longer_run_does_not_spend_its_first_step_at_the_end_of_the_old_schedule() -> None:
    optimizer, _, changed = restored(THEN, 2 * STEPS, taken=STEPS)
    assert changed == ["steps 10 -> 20"]
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * 10 / 20)


def test_moments_decay_and_course_follow_the_settings() -> None:
    settings = replace(THEN, betas=(0.8, 0.9), weight_decay=0.1, schedule="constant_with_warmup")
    optimizer, _, changed = restored(settings, STEPS)
    group = optimizer.param_groups[0]
    assert (group["betas"], group["weight_decay"], group["lr"]) == ((0.8, 0.9), 0.1, pytest.approx(1e-3))
    assert len(changed) == 3


@pytest.mark.slow
def test_a_run_goes_on_with_another_learning_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, iterations=1).fit()
    settings = {"optimization": Optimization(learning_rate=5e-4, mini_batch_size=1, micro_batch_size=3)}
    run = make_run(tmp_path, iterations=2, module=settings).fit(resume=True)
    assert run.module.metrics["train/learning_rate"] == 5e-4


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


def test_the_optimizer_is_the_fused_one_and_steps_as_the_other_does() -> None:
    weights = [torch.nn.Parameter(torch.linspace(-1, 1, 50)) for _ in range(2)]
    settings = Optimization(learning_rate=0.01, weight_decay=0.1)
    fused = settings.configure([weights[0]], steps=4)["optimizer"]
    other = torch.optim.AdamW([weights[1]], lr=0.01, betas=settings.betas, weight_decay=0.1, foreach=False)
    assert fused.param_groups[0]["fused"] is True
    for optimizer, weight in ((fused, weights[0]), (other, weights[1])):
        for _ in range(3):
            weight.grad = weight.detach() ** 2 + 0.1
            optimizer.step()
    assert torch.allclose(weights[0], weights[1], rtol=0, atol=1e-6)


def test_weights_on_other_devices_have_no_fused_optimizer() -> None:
    weight = torch.nn.Parameter(torch.ones(2, device="meta"))
    assert Optimization().configure([weight], steps=4)["optimizer"].param_groups[0]["fused"] is False

"""Settings of now take effect in an optimizer that a checkpoint restored with those of then."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llds.modules import Optimization
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


def test_a_run_goes_on_with_another_learning_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, iterations=1).fit()
    settings = {"optimization": Optimization(learning_rate=5e-4, mini_batch_size=1, micro_batch_size=3)}
    run = make_run(tmp_path, iterations=2, module=settings).fit(resume=True)
    assert run.module.metrics["train/learning_rate"] == 5e-4

"""The monitor says one line when a run is in trouble, logs its state, and goes on where it stopped."""

import warnings
from types import SimpleNamespace
from typing import Any

import pytest

from llds.callbacks import CollapseMonitor
from llds.errors import ConfigurationError


def watch(monitor: CollapseMonitor, rewards: list[float], start: int = 0) -> tuple[list[str], list[dict[str, float]]]:
    """What was said, and what was logged at each iteration."""
    logged = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for iteration, reward in enumerate(rewards, start=start):
            module: Any = SimpleNamespace(iteration=iteration)
            trainer: Any = SimpleNamespace(is_global_zero=True, default_root_dir="unused")
            scatter = 0.01 * (iteration % 3)
            batch: Any = SimpleNamespace(metrics={"reward/mean": reward + scatter, "policy/entropy": 1.0 + scatter})
            monitor.on_train_batch_end(trainer, module, None, batch, iteration)
            logged.append(batch.metrics)
    return [str(one.message) for one in caught], logged


def test_it_is_quiet_when_healthy() -> None:
    said, logged = watch(CollapseMonitor(max_incidents=0), [0.5 + 0.01 * step for step in range(40)])
    assert said == []
    assert {row["collapse/level"] for row in logged} == {0.0}


def test_it_says_one_line_per_fall_with_what_to_do() -> None:
    said, logged = watch(CollapseMonitor(max_incidents=0), [1.0] * 15 + [0.1] * 10)
    [line] = said
    assert line.startswith("Iteration 1")
    assert "alarm since iteration" in line
    assert "standard errors" in line
    assert (logged[14]["collapse/level"], logged[-1]["collapse/level"]) == (0.0, 3.0)
    assert (logged[14]["collapse/phase"], logged[-1]["collapse/phase"]) == (0.0, 4.0)
    said, _ = watch(CollapseMonitor(max_incidents=0), [1.0] * 15 + [0.1] * 10 + [1.0] * 30 + [0.1] * 10)
    assert len(said) == 2


def test_a_resumed_monitor_remembers_the_peak() -> None:
    first, second = CollapseMonitor(max_incidents=0), CollapseMonitor(max_incidents=0)
    watch(first, [1.0] * 12)
    second.load_state_dict(first.state_dict())
    said, logged = watch(second, [0.1] * 8, start=12)
    assert len(said) == 1
    assert logged[-1]["collapse/level"] == 3.0
    assert watch(CollapseMonitor(max_incidents=0), [0.1] * 8)[0] == []


def test_a_checkpoint_of_before_the_ladder_is_refused_with_the_way_on() -> None:
    with pytest.raises(ConfigurationError, match="export_checkpoint"):
        CollapseMonitor().load_state_dict({"warmup": 5, "tracks": {}})

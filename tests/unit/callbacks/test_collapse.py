"""The monitor says one line when a run begins to collapse, and goes on where it stopped."""

import warnings
from types import SimpleNamespace
from typing import Any

import pytest

from llds.callbacks import CollapseMonitor
from llds.errors import ConfigurationError
from llds.monitor.early_warning import ENTROPY, REWARD


def watch(monitor: CollapseMonitor, rewards: list[float]) -> tuple[int, list[float]]:
    """The number of warnings, and what was logged at each iteration."""
    module: Any = SimpleNamespace(iteration=0, log=lambda *args, **kwargs: None)
    logged = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for iteration, reward in enumerate(rewards):
            module.iteration = iteration
            batch: Any = SimpleNamespace(metrics={REWARD: reward, ENTROPY: 1.0})
            monitor.on_train_batch_end(SimpleNamespace(), module, None, batch, iteration)  # type: ignore[arg-type]
            logged.append(batch.metrics["collapse/warning"])
    return len(caught), logged


def test_it_is_quiet_when_healthy() -> None:
    assert watch(CollapseMonitor(), [0.1 * step for step in range(10)]) == (0, [0.0] * 10)


def test_it_warns_once_per_fall() -> None:
    count, logged = watch(CollapseMonitor(), [1.0] * 8 + [0.0] * 8)
    assert count == 1
    assert logged[:8] == [0.0] * 8
    assert logged[-1] == 1.0
    count, _ = watch(CollapseMonitor(), [1.0] * 8 + [0.0] * 8 + [1.0] * 12 + [0.0] * 8)
    assert count == 2


def test_its_settings_reach_the_rule() -> None:
    fall = [1.0] * 8 + [0.5] * 12
    assert watch(CollapseMonitor(), fall)[0] == 1
    assert watch(CollapseMonitor(reward_share_alone=0.4), fall)[0] == 0


def test_a_resumed_monitor_remembers_the_peak() -> None:
    first, second = CollapseMonitor(), CollapseMonitor()
    watch(first, [1.0] * 8)
    second.load_state_dict(first.state_dict())
    assert watch(second, [0.0] * 8)[0] == 1
    assert watch(CollapseMonitor(), [0.0] * 8)[0] == 0


@pytest.mark.parametrize(
    "bad", [{"warmup": 0}, {"reward_share": 0.0}, {"reward_share_alone": 2.0}, {"entropy_ratio": 0.5}]
)
def test_settings_out_of_range_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="Expected `collapse`"):
        CollapseMonitor(**bad)

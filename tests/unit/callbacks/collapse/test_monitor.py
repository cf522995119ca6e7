"""The monitor says one line when a run is in trouble, logs its state, and goes on where it stopped."""

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch import Trainer

from llds.batches import RolloutBatch
from llds.callbacks import CollapseMonitor
from llds.errors import ConfigurationError
from llds.modules import SearchAgentModule
from llds.monitor import read_metrics
from tests.runs import POLICY, answers, by_iteration, make_run, rows, scripted


def watch(monitor: CollapseMonitor, rewards: list[float], start: int = 0) -> tuple[list[str], list[dict[str, float]]]:
    """What was said, and what was logged at each iteration."""
    logged = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for iteration, reward in enumerate(rewards, start=start):
            module: Any = SimpleNamespace(iteration=iteration)
            trainer: Any = SimpleNamespace(is_global_zero=True, default_root_dir="unused")
            scatter = 0.01 * (iteration % 3)
            batch = RolloutBatch([])
            batch.metrics.hand_in("rollout", {"reward/mean": reward + scatter, "policy/entropy": 1.0 + scatter})
            monitor.on_train_batch_end(trainer, module, None, batch, iteration)
            logged.append(dict(batch.metrics))
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
    with pytest.raises(ConfigurationError, match="llds export"):
        CollapseMonitor().load_state_dict({"warmup": 5, "tracks": {}})


def feed(monitor: CollapseMonitor, rewards: list[float], entropies: list[float]) -> tuple[list[float], list[str]]:
    """Judge iterations of these signals; returns the logged warnings and the words."""
    module, trainer = SearchAgentModule(POLICY), Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    logged = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for reward, entropy in zip(rewards, entropies, strict=True):
            batch = RolloutBatch([])
            batch.metrics.hand_in("rollout", {"reward/mean": reward, "policy/entropy": entropy})
            module.iteration += 1
            monitor.on_train_batch_end(trainer, module, None, batch, 0)
            logged.append(batch.metrics["collapse/level"])
    return logged, [str(warning.message) for warning in caught]


def test_a_collapse_is_said_once_and_logged_in_every_iteration() -> None:
    healthy, falling = [0.5, 0.52] * 3, [0.2, 0.22] * 5
    logged, words = feed(CollapseMonitor(warmup=3, max_incidents=0), healthy + falling, [1.0] * 6 + [3.0] * 10)
    assert logged[:6] == [0.0] * 6
    assert logged[-4:] == [3.0] * 4
    assert [line.split(": ")[0] for line in words if "alarm" in line] == [f"Iteration {logged.index(3.0) + 1}"]
    assert len(words) <= 2


def test_a_monitor_that_resumes_says_nothing_again() -> None:
    first, second = (CollapseMonitor(warmup=3, max_incidents=0) for _ in range(2))
    feed(first, [0.5, 0.52] * 3 + [0.1, 0.12] * 5, [1.0] * 6 + [3.0] * 10)
    second.load_state_dict(first.state_dict())
    logged, words = feed(second, [0.1], [3.0])
    assert (logged, words) == ([3.0], [])


@pytest.mark.slow
def test_the_level_is_one_metric_of_each_iteration_and_the_log_can_be_diagnosed(tmp_path: Path) -> None:
    make_run(tmp_path, CollapseMonitor(), iterations=3, sampler=scripted(answers)).fit()
    assert [row["collapse/level"] for row in by_iteration(tmp_path).values()] == ["0.0"] * 3
    assert len(rows(tmp_path)) == 3
    table = read_metrics(tmp_path)
    assert (table.framework, [iteration for iteration, _ in table.rows]) == ("llds", [1, 2, 3])
    unknown = [name for name in table.ignored if not name.startswith(("time/", "collapse/", "train/"))]
    assert unknown in ([], ["epoch"])  # every other column is in the vocabulary


def test_a_warm_up_without_a_baseline_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"collapse\.warmup"):
        CollapseMonitor(warmup=2)


def test_a_checkpoint_with_the_detector_of_before_goes_on_with_a_new_one() -> None:
    before = CollapseMonitor().state_dict()
    before["detector"] = {"warmup": 5, "tracks": {}, "iteration": 9}
    monitor = CollapseMonitor()
    with pytest.warns(UserWarning, match="this one begins anew"):
        monitor.load_state_dict(before)
    assert monitor.detector.state_dict() == CollapseMonitor().detector.state_dict()

"""What an iteration logs does not depend on the order of the callbacks; metrics of one's own are part of it."""

import gzip
import json
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as pl
import pytest

from llds.batches import RolloutBatch
from llds.callbacks import CollapseMonitor, IterationSignals, RetrievalCallback, RolloutCallback, TrajectoryLog
from llds.errors import LLDSError
from llds.modules import MetricSource
from tests.runs import answers, by_iteration, make_run, scripted


class Own(MetricSource):
    """Counts the iteration's trajectories, after the updates."""

    part: ClassVar[str] = "own"

    def measure(self, trainer: pl.Trainer, pl_module: Any, batch: RolloutBatch) -> dict[str, float]:
        """Count; one value is not finite."""
        assert not pl_module.is_updating
        return {"own/trajectories": float(len(batch.trajectories)), "own/nothing": float("nan")}


def logged(folder: Path, *callbacks: pl.Callback, reverse: bool) -> dict[str, dict[str, str]]:
    """The metrics of a run whose callbacks are in the given order, or in reverse where they may be."""
    run = make_run(folder, *callbacks, iterations=4, sampler=scripted(answers))
    order: list[pl.Callback] = run.trainer.callbacks  # type: ignore[attr-defined]
    if reverse:
        order.sort(key=lambda one: isinstance(one, IterationSignals | RetrievalCallback))
        assert isinstance(order[-1], IterationSignals)
    run.fit()
    return by_iteration(folder)


@pytest.mark.slow
def test_what_is_logged_does_not_depend_on_the_order_of_the_callbacks(tmp_path: Path) -> None:
    given = [logged(tmp_path / name, TrajectoryLog(), Own(), reverse=name == "b") for name in "ab"]
    assert given[0] == given[1]
    assert given[0]["1.0"]["own/trajectories"] == "8.0"
    assert "own/nothing" not in given[0]["1.0"]
    for name in "ab":  # the signals come first wherever they stand, or the log would lack the changes
        text = gzip.decompress((tmp_path / name / "trajectories" / "iteration-000001.jsonl.gz").read_bytes()).decode()
        assert any("log_prob_changes" in turn for line in text.splitlines() for turn in json.loads(line)["turns"])


@pytest.mark.slow
def test_the_monitor_judges_all_signals_wherever_it_stands(tmp_path: Path) -> None:
    rows = []
    for name in "ab":
        monitor = CollapseMonitor(warmup=3)
        run = make_run(tmp_path / name, iterations=4, sampler=scripted(answers))
        order: list[pl.Callback] = run.trainer.callbacks  # type: ignore[attr-defined]
        rollout = next(place for place, one in enumerate(order) if isinstance(one, RolloutCallback))
        order.insert(0 if name == "a" else rollout + 1, monitor)
        run.fit()
        rows.append(monitor.state_dict()["signals"])
        assert "llds/displacement_correct" in rows[-1][0]
    timeless = [[{key: row[key] for key in row if not key.startswith("time/")} for row in found] for found in rows]
    assert timeless[0] == timeless[1]


def test_a_source_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LLDSError, match=r"of `own` after `own` was there"):
        make_run(tmp_path, Own(), Own(), iterations=1, sampler=scripted(answers)).fit()

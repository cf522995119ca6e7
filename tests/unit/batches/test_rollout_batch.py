"""The batch of an iteration, and the metrics that are handed in to it."""

import dataclasses
import math
import pickle
from collections.abc import Mapping, Sequence

import pytest
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.pytorch.plugins.precision import HalfPrecision, MixedPrecision, Precision

from llds.batches.iteration_metrics import PARTS, IterationMetrics
from llds.batches.rollout_batch import RolloutBatch
from llds.errors import LLDSError
from llds.types import Prompt


def test_a_batch_begins_with_prompts_only() -> None:
    batch = RolloutBatch([Prompt("1", "?", ("a",))])
    assert len(batch) == 1
    assert (batch.trajectories, batch.policy_batch, batch.timings, dict(batch.metrics)) == ([], None, {}, {})


def test_batches_share_nothing() -> None:
    first, second = RolloutBatch([]), RolloutBatch([])
    first.metrics.hand_in("rollout", {"x": 1.0})
    first.timings["x"] = 1.0
    assert not second.metrics
    assert second.timings == {}


def test_lightning_neither_copies_nor_casts_nor_moves_a_batch() -> None:
    batch = RolloutBatch([Prompt("1", "?", ("a",))])
    batch.metrics.hand_in("rollout", {"x": 0.1})
    assert not isinstance(batch, Mapping | Sequence)
    assert not dataclasses.is_dataclass(batch)
    for plugin in (Precision(), HalfPrecision("bf16-true"), MixedPrecision("bf16-mixed", "cpu")):
        assert plugin.convert_input(batch) is batch
    assert move_data_to_device(batch, torch.device("meta")) is batch
    assert move_data_to_device(batch, torch.device("cpu")) is batch
    assert batch.to(torch.device("cpu")) is batch


def handed_in(*parts: str) -> IterationMetrics:
    """Metrics of which each part has one key, its name."""
    metrics = IterationMetrics()
    for number, part in enumerate(parts):
        metrics.hand_in(part, {f"{part}/x": float(number)})
    return metrics


def test_the_order_of_the_parts_is_fixed_whatever_the_order_in_which_they_come() -> None:
    expected = ["rollout/x", "update/x", "signals/x", "a_own/x", "b_own/x", "collapse/x", "ladder/x"]
    assert list(handed_in("rollout", "update", "signals", "a_own", "b_own", "collapse", "ladder")) == expected
    assert list(handed_in("collapse", "b_own", "a_own", "ladder", "signals", "update", "rollout")) == expected
    assert PARTS.index("probe") < PARTS.index("rollout") < PARTS.index("") < PARTS.index("collapse")


def test_metrics_are_read_like_a_dictionary_and_written_by_parts_alone() -> None:
    metrics = IterationMetrics()
    metrics.hand_in("rollout", {"a": 1.0}, {"b": 2.0})
    assert dict(metrics) == {"a": 1.0, "b": 2.0}
    assert (metrics["b"], metrics.get("c"), len(metrics), "a" in metrics) == (2.0, None, 2, True)
    with pytest.raises(TypeError, match="item assignment"):
        metrics["a"] = 3.0  # type: ignore[index]
    assert dict(pickle.loads(pickle.dumps(metrics))) == dict(metrics)  # noqa: S301 (our own)


def test_a_part_that_comes_twice_is_refused() -> None:
    with pytest.raises(LLDSError, match=r"`signals/y` of `signals` after `signals` was there.*given twice"):
        handed_in("signals").hand_in("signals", {"signals/y": 1.0})


def test_a_key_that_is_written_twice_is_refused_by_name() -> None:
    with pytest.raises(LLDSError, match=r"`rollout/x` of `own` after `rollout` was there"):
        handed_in("rollout").hand_in("own", {"rollout/x": 1.0})
    with pytest.raises(LLDSError, match=r"`x` of `own` after `own` was there"):
        IterationMetrics().hand_in("own", {"x": 1.0}, {"x": 2.0})


def test_what_is_not_finite_is_left_out() -> None:
    metrics = IterationMetrics()
    metrics.hand_in("rollout", {"a": math.nan, "b": math.inf, "c": 0.5})
    assert dict(metrics.finite()) == {"c": 0.5}
    metrics.finite().hand_in("later", {"d": 1.0})
    assert "d" not in metrics

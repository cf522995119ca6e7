"""The rollout batch: Lightning must hand the very object through."""

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.pytorch.plugins.precision import HalfPrecision, MixedPrecision, Precision

from llds.batches.rollout_batch import RolloutBatch
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

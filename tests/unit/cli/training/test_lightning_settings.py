"""What Lightning's settings cannot do is said in llds's words, before anything is loaded."""

from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.pytorch.callbacks import (
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    StochasticWeightAveraging,
)

from llds.cli.training.lightning_settings import check_lightning_settings
from llds.errors import ConfigurationError


def check(has_validations: bool = True, **settings: Any) -> None:
    trainer = pl.Trainer(accelerator="cpu", logger=False, **{"enable_checkpointing": False} | settings)
    check_lightning_settings(trainer, has_validations)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gradient_clip_val": 1.0}, r"`trainer.gradient_clip_val` 1.0. Set --model.optimization.max_grad_norm 1.0"),
        ({"accumulate_grad_batches": 4}, r"`model.optimization.micro_batch_size`.*accumulate_grad_batches` 4"),
        ({"callbacks": [StochasticWeightAveraging(0.1)]}, "got StochasticWeightAveraging, which makes its own"),
    ],
)
def test_what_would_have_no_effect_is_refused_and_the_right_key_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        check(**settings)


@pytest.mark.parametrize(
    ("callback", "advice"),
    [
        (EarlyStopping("reward/mean"), r"monitor: reward/mean\).*collapse\.ladder"),
        (ModelCheckpoint(monitor="val/exact_match"), r"monitor: val/exact_match\).*IterationCheckpoint"),
    ],
)
def test_a_callback_that_waits_for_validations_needs_some(callback: pl.Callback, advice: str) -> None:
    check(callbacks=[callback], enable_checkpointing=True)
    with pytest.raises(ConfigurationError, match=advice):
        check(has_validations=False, callbacks=[callback], enable_checkpointing=True)


def test_what_works_is_let_through() -> None:
    check(gradient_clip_val=None, callbacks=[LearningRateMonitor(), ModelCheckpoint()], enable_checkpointing=True)

"""One seed for all parts of a run; settings of Lightning without effect are refused."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from jsonargparse import Namespace
from lightning.pytorch.accelerators import CPUAccelerator, MPSAccelerator
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    SpikeDetection,
    StochasticWeightAveraging,
)
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from llds.cli.config.saved import SaveConfig, _flat
from llds.cli.training.command import build_cli
from llds.cli.training.lightning_settings import (
    check_lightning_settings,
    choose_accelerator,
    tell_of_idle_cores,
)
from llds.cli.training.parser import TrainingParser
from llds.cli.training.seeds import SEEDED, spread_seed
from llds.errors import ConfigurationError
from llds.modules.measuring import write

ROOT = Path(__file__).parents[4]


def seeds(**changes: object) -> list[object]:
    """The seeds that take effect, in the order of `SEEDED`."""
    values = dict.fromkeys(SEEDED) | {"seed_everything": 3, "ckpt_path": None}
    config = Namespace()
    for key, value in (values | changes).items():
        config[key] = value
    spread_seed(config)
    return [config[key] for key in SEEDED]


def test_every_part_without_a_seed_gets_the_one_seed() -> None:
    assert seeds() == [3, 3, 3]
    assert seeds(**{"rollout.seed": 7}) == [3, 3, 7]
    assert seeds(**{"data.init_args.seed": 0}) == [3, 0, 3]
    assert seeds(seed_everything=False) == [0, 0, 0]


@pytest.mark.parametrize("saved", [{"seed_everything": 1, "rollout": 0, "init_args": 0}, {"seed_everything": 5}])
def test_a_run_that_goes_on_keeps_the_seeds_that_it_was_begun_with(tmp_path: Path, saved: dict[str, int]) -> None:
    part = saved.get("rollout", 5)  # before there was one seed, each part had 0 whatever `seed_everything` was
    (tmp_path / "config.yaml").write_text(
        f"seed_everything: {saved['seed_everything']}\nrollout: {{seed: {part}}}\n"
        f"model: {{init_args: {{seed: {part}}}}}\ndata: {{init_args: {{seed: {part}}}}}\n"
    )
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    with pytest.warns(UserWarning, match="goes on with the seed that it was begun with"):
        assert seeds(ckpt_path=str(checkpoint)) == [part] * 3
    assert seeds(ckpt_path=str(tmp_path / "elsewhere" / "checkpoints" / "last.ckpt")) == [3, 3, 3]


@pytest.mark.slow
def test_the_command_line_sets_all_seeds_at_once() -> None:
    cli = build_cli(["-c", str(ROOT / "conf" / "quickstart.yaml"), "--seed_everything", "4"], run=False)
    rollout = next(one for one in cli.trainer.callbacks if type(one).__name__ == "RolloutCallback")  # type: ignore[attr-defined]
    assert (cli.model.seed, cli.datamodule.seed, rollout.seed) == (4, 4, 4)
    assert cli.config["rollout"]["seed"] == 4


def check(has_validations: bool = True, **settings: Any) -> None:
    trainer = pl.Trainer(accelerator="cpu", logger=False, **{"enable_checkpointing": False} | settings)
    check_lightning_settings(trainer, has_validations)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gradient_clip_val": 1.0}, r"`trainer.gradient_clip_val` 1.0. Set --model.optimization.max_grad_norm 1.0"),
        ({"accumulate_grad_batches": 4}, r"`model.optimization.micro_batch_size`.*accumulate_grad_batches` 4"),
        ({"callbacks": [StochasticWeightAveraging(0.1)]}, "got StochasticWeightAveraging, which makes its own"),
        ({"callbacks": [SpikeDetection()]}, "got SpikeDetection, which wants the loss"),
        ({"callbacks": [BackboneFinetuning()]}, "got BackboneFinetuning, which freezes"),
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


def test_on_a_mac_the_cpu_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_accelerator("auto") == "auto"
    monkeypatch.setattr(MPSAccelerator, "is_available", lambda: True)
    assert [choose_accelerator(asked) for asked in ("auto", "cpu")] == ["cpu", "cpu"]
    with pytest.raises(ConfigurationError, match=r"got mps: Apple's GPU \(MPS\) has no float64"):
        choose_accelerator("mps")


@pytest.mark.parametrize(("devices", "threads", "told"), [(1, 2, True), (1, 1, False), (2, 2, False)])
def test_one_process_on_several_cores_is_told_of_the_flag_for_two(
    monkeypatch: pytest.MonkeyPatch, devices: int, threads: int, told: bool
) -> None:
    said: list[str] = []
    monkeypatch.setattr("llds.cli.training.lightning_settings.rank_zero_info", said.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    trainer = SimpleNamespace(accelerator=CPUAccelerator(), world_size=devices)
    tell_of_idle_cores(trainer)  # type: ignore[arg-type]
    assert ["--trainer.devices 2" in one for one in said] == [True] * told


def test_tensorboard_has_iterations_along_its_axis_and_the_settings_and_one_run_for_all_resumes(tmp_path: Path) -> None:
    saving = SaveConfig(TrainingParser(), Namespace())
    saving._to_tell = dict(
        _flat({"model": {"class_path": "A", "init_args": {"lora": None, "betas": [0.9]}}, "seed": 1})
    )
    for iteration in (1, 2):  # a run, and the same when it goes on
        logger = TensorBoardLogger(tmp_path, name="tensorboard", version="", default_hp_metric=False)
        measured = {"iteration": torch.tensor(iteration), "reward/mean": torch.tensor(0.5)}
        trainer: Any = SimpleNamespace(loggers=[logger], callback_metrics=measured)
        write([logger], {"iteration": iteration, "step": 4 * iteration, "reward/mean": 0.5})
        saving.on_train_batch_end(trainer, pl.LightningModule(), None, None, 0)
        logger.finalize("success")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("reward/mean")] == [1, 1, 2]  # once more with the settings
    assert "hp_metric" not in events.Tags()["scalars"]
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    told = HParamsPluginData.FromString(content).session_start_info.hparams
    assert {key: value.string_value or value.number_value for key, value in told.items()} == {
        "model": "A", "model.lora": "None", "model.betas": "[0.9]", "seed": 1.0
    }  # fmt: skip


def test_what_works_is_let_through() -> None:
    check(gradient_clip_val=None, callbacks=[LearningRateMonitor(), ModelCheckpoint()], enable_checkpointing=True)

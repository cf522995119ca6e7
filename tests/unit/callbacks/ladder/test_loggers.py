"""The overlays of conf/logging/: a short training offline, and an alarm that reaches the service."""

import os
import sqlite3
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import yaml

from llds.callbacks import CollapseMonitor
from llds.callbacks.ladder import Incident, TrackioAlert
from llds.cli.training.command import build_cli
from llds.errors import ConfigurationError
from llds.monitor import Diagnosis

QUICK = (
    *("--data.iterations", "1", "--data.batch_size", "4", "--model.optimization.mini_batch_size", "2"),
    *("--rollout.group_size", "2", "--trainer.limit_val_batches", "0", "--trainer.accelerator", "cpu"),
)


def wandb_holds(folder: Path) -> str:
    [file] = folder.glob("run/wandb/offline-run-*/*.wandb")
    return file.read_bytes().decode("latin-1")


def trackio_holds(folder: Path) -> str:
    [file] = Path(os.environ["TRACKIO_DIR"]).glob("llds.db")
    with sqlite3.connect(file) as database:
        return str([database.execute(f"select * from {table}").fetchall() for table in ("metrics", "alerts")])  # noqa: S608


def mlflow_holds(folder: Path) -> str:
    files = [*folder.glob("mlflow/**/tags/llds.*"), *folder.glob("mlflow/**/metrics/reward/mean")]
    return "\n".join(f"{file.relative_to(folder)} {file.read_text()}" for file in files)


HOLDS: dict[str, Callable[[Path], str]] = {"wandb": wandb_holds, "trackio": trackio_holds, "mlflow": mlflow_holds}


class Trouble(pl.Callback):
    """Lets the rungs tell of an alarm."""

    def __init__(self, folder: Path) -> None:
        found = Diagnosis(1, "acceleration", "alarm", since=1, cause="lld_spiral")
        self.incident = Incident(folder, None, found, (), "Iteration 1: reward is being lost")

    def on_train_batch_end(self, trainer: pl.Trainer, *others: Any) -> None:
        """At the end of an iteration."""
        [monitor] = [one for one in trainer.callbacks if isinstance(one, CollapseMonitor)]  # type: ignore[attr-defined]
        rungs = monitor.ladder.rungs
        assert [type(rung).__name__ for rung in rungs] == ["Warn", "WandbAlert", "TrackioAlert", "MLflowTag"]
        for rung in rungs[1:]:
            rung.announce(self.incident)


@pytest.mark.slow
def test_a_run_logs_offline_and_an_alarm_reaches_the_services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlflow'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for service in HOLDS:
        pytest.importorskip(service, reason="of the extra llds[dev]")
    monkeypatch.chdir(tmp_path)
    files = [part for service in HOLDS for part in ("-c", f"llds:logging/{service}")]
    words = ["-c", "llds:quickstart", "-c", "llds:retrieval/bm25", *files, *QUICK]
    cli = build_cli([*words, "--trainer.default_root_dir", str(tmp_path / "run")], run=False)
    trainer: Any = cli.trainer
    trainer.callbacks.append(Trouble(tmp_path))
    trainer.fit(cli.model, datamodule=cli.datamodule)
    import wandb

    wandb.finish()
    for service, holds in HOLDS.items():
        kept = holds(tmp_path)
        assert "reward is being lost" in kept, service
        assert "reward/mean" in kept, service


@pytest.mark.skipif(find_spec("trackio") is not None, reason="needs that it is missing")
def test_a_logger_without_its_package_says_what_to_install() -> None:
    from llds.trackio import TrackioLogger

    with pytest.raises(ConfigurationError, match="pip install trackio"):
        TrackioLogger()


def test_a_rung_without_its_logger_is_refused() -> None:
    class Trainer:
        loggers: tuple[()] = ()

    with pytest.raises(ConfigurationError, match="llds:logging/trackio"):
        TrackioAlert().check(Trainer(), None)  # type: ignore[arg-type]


@pytest.mark.parametrize("service", list(HOLDS))
def test_an_overlay_adds_to_what_the_run_has(service: str) -> None:
    settings = yaml.safe_load((Path(__file__).parents[4] / "conf" / "logging" / f"{service}.yaml").read_text())
    assert list(settings["trainer"]) == ["logger+"]
    assert list(settings["collapse"]) == ["ladder+"]

"""Loggers open no file before a run has been set up, and log all of it afterwards."""

from pathlib import Path

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer

from llds.cli.training.late_loggers import LateLoggers
from llds.errors import ConfigurationError
from tests.runs import answers, by_iteration, make_run, scripted


class Refusal(Callback):
    """Refuses while the run is set up."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse."""
        raise ConfigurationError("no")


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_a_run_that_is_refused_leaves_nothing(tmp_path: Path, stage: str) -> None:
    run = make_run(tmp_path, Refusal(), sampler=scripted(answers))
    run.trainer.callbacks.insert(0, LateLoggers(run.trainer))
    with pytest.raises(ConfigurationError):
        getattr(run.trainer, stage)(run.module, run.data)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_not_refused_is_logged_whole(tmp_path: Path) -> None:
    run = make_run(tmp_path, sampler=scripted(answers))
    run.trainer.callbacks.insert(0, LateLoggers(run.trainer))
    run.fit()
    assert len(by_iteration(tmp_path)) == 2


def test_an_evaluation_is_logged(tmp_path: Path) -> None:
    run = make_run(tmp_path, sampler=scripted(answers))
    run.trainer.callbacks.insert(0, LateLoggers(run.trainer))
    run.trainer.test(run.module, run.data, verbose=False)
    assert "test/exact_match" in (tmp_path / "csv" / "version_0" / "metrics.csv").read_text()

"""The progress line."""

from pathlib import Path

from llds.callbacks import RolloutProgressBar
from tests.runs import answers, make_run, scripted


def test_the_bar_shows_the_iteration_that_has_just_ended(tmp_path: Path) -> None:
    run = make_run(tmp_path, iterations=1, sampler=scripted(answers)).fit()
    shown = RolloutProgressBar().get_metrics(run.trainer, run.module)
    assert (shown["reward"], shown["searches"]) == ("0.250", "1.000")
    assert float(shown["logp+"]) < 0
    assert len(shown["s"].split("/")) == 3

"""A run's page: there when it ends, and while it trains where there is time for it."""

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer

from llds.callbacks import RolloutProgressBar, RunReport, TrajectoryLog
from llds.callbacks.progress import _above_the_line, progress_line
from llds.callbacks.report import TimeBudget
from llds.errors import ConfigurationError
from tests.runs import answers, make_run, rows, scripted


@pytest.mark.slow
def test_a_report_is_there_when_a_run_ends(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_run(tmp_path, RunReport(), TrajectoryLog(), iterations=2, sampler=scripted(answers)).fit()
    assert "report.html (too short to say: 2 rows with a reward, 12 are needed)" in caplog.text
    page = (tmp_path / "report.html").read_text()
    assert "iteration 2" in page
    assert "nats" in page
    assert not list(tmp_path.glob(".partial*"))


class ReportSeen(Callback):
    """Keeps after which iterations there was a page."""

    def __init__(self) -> None:
        self.after: list[int] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        """Look."""
        if (Path(trainer.default_root_dir) / "report.html").exists():
            self.after.append(pl_module.iteration)


@pytest.mark.slow
@pytest.mark.parametrize(("expected", "after"), [(0.0, [2, 3]), (1e9, [])])
def test_a_report_is_written_while_a_run_trains_where_there_is_time_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: float, after: list[int]
) -> None:
    monkeypatch.setattr("llds.callbacks.report._SECONDS_OF_A_PAGE", expected)
    seen = ReportSeen()
    make_run(tmp_path, RunReport(every_n_iterations=2), seen, iterations=3, sampler=scripted(answers)).fit()
    assert seen.after == after
    assert (tmp_path / "report.html").exists()


@pytest.mark.slow
def test_a_report_that_fails_never_ends_a_run(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir(parents=True)
    with pytest.warns(UserWarning, match="No report"):
        make_run(tmp_path, RunReport(every_n_iterations=1), iterations=2, sampler=scripted(answers)).fit()
    assert len(rows(tmp_path)) == 2
    with pytest.raises(ConfigurationError, match="every_n_iterations"):
        RunReport(every_n_iterations=0)
    with pytest.raises(ConfigurationError, match="share"):
        RunReport(share=0.0)


def test_work_is_allowed_once_all_of_it_fits_into_its_share() -> None:
    budget = TimeBudget(share=0.01, started=1000.0, expected=5.0)
    assert not budget.allows(1499.0)  # 4.99 s
    assert budget.allows(1500.0)
    budget.charge(3.0)  # the next is expected to take 3 s, too: 6 s in all are 1% of 600 s
    assert not budget.allows(1599.0)
    assert budget.allows(1600.0)
    budget.charge(4.0)  # 3 + 4 + 4 s
    assert not budget.allows(2099.0)
    assert budget.allows(2100.0)


def test_many_short_iterations_never_exceed_the_share_and_long_ones_get_all() -> None:
    for iteration, pages in ((1.0, 4), (3600.0, 80)):
        budget, now, written = TimeBudget(0.01, 0.0, 5.0), 0.0, 0
        for number in range(1, 2001):
            now += iteration
            if number % 25 == 0 and budget.allows(now):
                now += 5.0
                budget.charge(5.0)
                written += 1
            assert budget.spent <= 0.01 * now
        assert written == pages


def test_the_bar_shows_the_iteration_that_has_just_ended(tmp_path: Path) -> None:
    run = make_run(tmp_path, iterations=1, sampler=scripted(answers)).fit()
    shown = RolloutProgressBar().get_metrics(run.trainer, run.module)
    assert (shown["reward"], shown["calls"]) == ("reward 0.250", "calls 1.00")
    assert float(shown["likelihood"].removeprefix("likelihood ")) < 0
    assert shown["seconds"].endswith(" s")


def test_the_progress_line_leaves_out_what_a_narrow_terminal_has_no_room_for() -> None:
    shown = {"reward": "reward 0.912", "likelihood": "likelihood -0.213", "calls": "calls 1.49"}
    shown |= {"seconds": "2.9 s", "left": "00:52 left"}
    whole = "iteration 12/30  reward 0.912  likelihood -0.213  calls 1.49  2.9 s  00:52 left"
    assert progress_line(12, 30, shown, 79) == whole
    assert progress_line(1000, 1000, shown, 79) == whole.replace("12/30", "1000/1000").replace("  calls 1.49", "")
    assert progress_line(12, 30, shown, 41) == "iteration 12/30  reward 0.912  00:52 left"
    assert progress_line(12, 30, shown, 40) == "iteration 12/30  reward 0.912"
    assert progress_line(12, 30, shown, 10) == "iteration "


def test_a_run_that_goes_on_shows_its_total_and_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    trainer: Any = SimpleNamespace(num_training_batches=6, max_epochs=1)
    module: Any = SimpleNamespace(iteration=3, metrics={"reward/mean": 0.5, "rollout/tool_calls": 1.25})
    bar = RolloutProgressBar()
    bar.on_train_start(trainer, module)
    for module.iteration in (4, 5, 6):
        bar.on_train_batch_end(trainer, module, None, None, module.iteration - 1)
    bar.on_train_end()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("iteration")]
    assert lines == [  # in a file a line for each; three iterations were there before, and took no time here
        "iteration 4/6  reward 0.500  calls 1.25  00:00 left",
        "iteration 5/6  reward 0.500  calls 1.25  00:00 left",
        "iteration 6/6  reward 0.500  calls 1.25  00:00 in all",
    ]


def test_what_others_say_goes_above_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    before = warnings.showwarning
    with _above_the_line():
        warnings.warn("the disk is nearly full", stacklevel=1)
    assert "UserWarning: the disk is nearly full\n" in capsys.readouterr().err
    assert warnings.showwarning is before

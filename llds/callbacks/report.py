"""The report of the run, written while it trains and when it ends (`llds.report`; later: ``llds report``)."""

import gc
import time
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from llds.errors import ConfigurationError, LLDSError
from llds.modules import SearchAgentModule
from llds.monitor.verdict import UNJUDGED
from llds.strategies import best_effort

_SECONDS_OF_A_PAGE = 5.0
"""What the first page is expected to take; then each is expected to take as long as the one before."""


class RunReport(pl.Callback):
    """Writes ``report.html`` into the run's folder.

    Args:
        every_n_iterations: Iterations between two versions of the page; the last is written when the run ends, however
            it ends.
        share: Of the training's time that pages may take while it goes on; one that does not fit is left out.

    Raises:
        ConfigurationError: If the number is below 1, or the share not above 0 and at most 1.
    """

    def __init__(self, every_n_iterations: int = 25, share: float = 0.01) -> None:
        if every_n_iterations < 1:
            raise ConfigurationError(f"Expected `RunReport` to have every_n_iterations >= 1, got {every_n_iterations}.")
        if not 0 < share <= 1:
            raise ConfigurationError(f"Expected `RunReport` to have a share in (0, 1], got {share}.")
        self.every_n_iterations = every_n_iterations
        self.share = share

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._budget = TimeBudget(self.share, time.perf_counter(), _SECONDS_OF_A_PAGE)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: SearchAgentModule, *_: object) -> None:
        """Write the page if it is due and there is time for it."""
        begun = time.perf_counter()
        if pl_module.iteration % self.every_n_iterations == 0 and self._budget.allows(begun):
            self._write(trainer)
            gc.collect()  # the models of plots hold each other, tens of megabytes of them
            self._budget.charge(time.perf_counter() - begun)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the page of the whole run."""
        said = self._write(trainer)
        if said:
            rank_zero_info(f"Report: {said}")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Write the page of a run that was interrupted, if it has got an iteration to show."""
        if trainer.state.fn == "fit" and isinstance(pl_module, SearchAgentModule) and pl_module.iteration > 0:
            self._write(trainer, is_whole=False)

    def _write(self, trainer: pl.Trainer, is_whole: bool = True) -> str:
        """Write the page, which must never be what ends a run; returns where it is, and that it says nothing yet.

        A run that was interrupted (not whole) may have logged nothing to show.
        """
        if not trainer.is_global_zero:
            return ""
        # Imported here: bokeh is not needed by the other ranks, nor by any other command.
        from llds.report import read_run, write_report

        folder = Path(trainer.default_root_dir)
        with best_effort("No report"):
            try:
                run = read_run(folder)
                path = write_report([run], folder / "report.html")
                return f"{path} ({run.verdict.words})" if run.verdict.kind in UNJUDGED else str(path)
            except LLDSError as error:
                if is_whole and (folder / "csv").exists():
                    rank_zero_warn(f"No report: {error}")
        return ""


@dataclass
class TimeBudget:
    """Says when the next piece of work fits. Times are seconds of any one clock.

    Attributes:
        share: Of the time since the start that all pieces together may take.
        started: When the run began.
        expected: What the next piece may take: as long as the last one did; a guess before the first.
        spent: On all pieces so far.
    """

    share: float
    started: float
    expected: float
    spent: float = 0.0

    def allows(self, now: float) -> bool:
        """Whether another piece fits by now."""
        return self.spent + self.expected <= self.share * (now - self.started)

    def charge(self, seconds: float) -> None:
        """Put a piece on the account."""
        self.spent += seconds
        self.expected = seconds

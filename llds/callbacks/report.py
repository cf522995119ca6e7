"""The report of the run, written while it trains and when it ends (`llds.report`; later: ``llds report``)."""

import gc
import time
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from llds.callbacks.side_work import without_ending_the_run
from llds.callbacks.time_budget import TimeBudget
from llds.errors import ConfigurationError, LLDSError
from llds.modules import SearchAgentModule

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
        path = self._write(trainer)
        if path is not None:
            rank_zero_info(f"Report: {path}")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Write the page of a run that was interrupted."""
        if trainer.state.fn == "fit":
            self._write(trainer)

    def _write(self, trainer: pl.Trainer) -> Path | None:
        """The page, which must never be what ends a run."""
        if not trainer.is_global_zero:
            return None
        # Imported here: bokeh is not needed by the other ranks, nor by any other command.
        from llds.report import read_run, write_report

        folder = Path(trainer.default_root_dir)
        with without_ending_the_run("No report"):
            try:
                return write_report([read_run(folder)], folder / "report.html")
            except LLDSError as error:
                if (folder / "csv").exists():
                    rank_zero_warn(f"No report: {error}")
        return None

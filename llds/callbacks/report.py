"""The report of the run, written while it trains and when it ends (`llds.report`; later: ``llds report``)."""

from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from llds.callbacks.side_work import without_ending_the_run
from llds.errors import ConfigurationError, LLDSError
from llds.modules import SearchAgentModule


class RunReport(pl.Callback):
    """Writes ``report.html`` into the run's folder.

    Args:
        every_n_iterations: Iterations between two versions of the page; the last is written when the run ends, however
            it ends.

    Raises:
        ConfigurationError: If the number is below 1.
    """

    def __init__(self, every_n_iterations: int = 25) -> None:
        if every_n_iterations < 1:
            raise ConfigurationError(f"Expected `RunReport` to have every_n_iterations >= 1, got {every_n_iterations}.")
        self.every_n_iterations = every_n_iterations

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: SearchAgentModule, *_: object) -> None:
        """Write the page if it is due."""
        if pl_module.iteration % self.every_n_iterations == 0:
            self._write(trainer)

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

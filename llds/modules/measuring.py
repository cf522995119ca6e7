"""An iteration's metrics are put together here, and here alone; subclass `MetricSource` to add some of your own.

Left out on purpose: the parts and their order (`llds.batches.iteration_metrics`).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import ClassVar

import lightning.pytorch as pl
from lightning.fabric.loggers import Logger, TensorBoardLogger

from llds.batches import RolloutBatch
from llds.batches.iteration_metrics import IterationMetrics, place_of
from llds.strategies import gather


class MetricSource(pl.Callback, ABC):
    """A callback whose metrics are part of every iteration's.

    Attributes:
        part: Name of the part (`llds.batches.iteration_metrics`); no other source has it.
    """

    part: ClassVar[str]

    @abstractmethod
    def measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: RolloutBatch) -> dict[str, float]:
        """Measure the iteration, after its updates and before any callback's ``on_train_batch_end``.

        Every rank is asked, at the same time; all log what rank 0 returns.

        Args:
            trainer: Of the run.
            pl_module: Has the weights after the updates; its `iteration` is the number of the iteration.
            batch: Of the iteration.

        Returns:
            Metrics by their full key; those that are not finite are left out.
        """


def assemble(pl_module: pl.LightningModule, batch: RolloutBatch, place: Mapping[str, float]) -> IterationMetrics:
    """Complete the metrics of an iteration whose updates are made, but for what `CollapseMonitor` says of them.

    Args:
        pl_module: Whose trainer's callbacks are asked.
        batch: Holds what rollout and updates have handed in.
        place: Where the run stands.

    Returns:
        All, the same on every rank to the bit, so that whatever is decided on them is decided alike. Without values
        that are not finite: what a skipped step left behind is counted, and a NaN would spoil every curve.
    """
    batch.metrics.hand_in("time", {f"time/{phase}_s": seconds for phase, seconds in batch.timings.items()})
    batch.metrics.hand_in("place", place)
    callbacks: list[pl.Callback] = pl_module.trainer.callbacks  # type: ignore[attr-defined]
    sources = [callback for callback in callbacks if isinstance(callback, MetricSource)]
    for source in sorted(sources, key=lambda source: place_of(source.part)):
        batch.metrics.hand_in(source.part, source.measure(pl_module.trainer, pl_module, batch))
    return gather(batch.metrics.finite())[0]


def write(loggers: Iterable[Logger], metrics: Mapping[str, float]) -> None:
    """Hand an iteration's metrics to the loggers, at its number of optimizer steps; TensorBoard's at the iteration's.

    Args:
        loggers: Of the run.
        metrics: With ``step`` and ``iteration``.
    """
    values = {key: value for key, value in metrics.items() if key != "step"}
    for logger in loggers:
        # What else has a column to choose as its horizontal axis; TensorBoard has that of the step alone.
        axis = "iteration" if isinstance(logger, TensorBoardLogger) else "step"
        logger.log_metrics(values, step=int(metrics[axis]))
        logger.save()

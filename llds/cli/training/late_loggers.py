"""Loggers that begin when a run begins: one that is refused while it is set up leaves no folders of theirs behind."""

import lightning.pytorch as pl


class LateLoggers(pl.Callback):
    """Takes the loggers from the trainer, which would open their files at once, and gives them back after the set-up.

    Args:
        trainer: Has its loggers; it gets them back before anything is logged.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        self._loggers = list(trainer.loggers)
        trainer.loggers = []

    def _give_back(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._loggers:
            trainer.loggers, self._loggers = self._loggers, []

    on_fit_start = on_validation_start = on_test_start = on_predict_start = _give_back

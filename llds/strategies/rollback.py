"""Going back to a checkpoint in the middle of a run: weights, optimizer and schedule, while everything else goes on.

Lightning restores a checkpoint before a training begins; this does so between two iterations of one, under every
strategy. Iterations and optimizer steps count on, and so do the position in the prompts and the callbacks.
"""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from llds.strategies.zero3 import ZeRO3Strategy


def load_training_state(trainer: pl.Trainer, path: Path) -> dict[str, Any]:
    """Put weights, optimizer and schedule back to those of a checkpoint; a collective operation.

    The learning rate is then the checkpoint's as well. What the checkpoint leaves out stays (a frozen reference).

    Args:
        trainer: In the middle of `fit`, between two optimizer steps.
        path: A checkpoint that this run, or one with the same settings, wrote.

    Returns:
        The rest of the checkpoint, to restore more from; with ZeRO-3, what this rank wrote.

    Raises:
        ConfigurationError: If it was written with another strategy or another number of ranks.
    """
    strategy = trainer.strategy
    checkpoint: dict[str, Any] = strategy.load_checkpoint(path, weights_only=False)  # a run's own file
    if not isinstance(strategy, ZeRO3Strategy):  # which has loaded both by now
        strategy.load_model_state_dict(checkpoint, strict=False)
        strategy.load_optimizer_state_dict(checkpoint)
    for scheduled, state in zip(trainer.lr_scheduler_configs, checkpoint["lr_schedulers"], strict=True):
        scheduled.scheduler.load_state_dict(state)
    return checkpoint

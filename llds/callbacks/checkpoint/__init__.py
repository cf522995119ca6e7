"""Checkpoints between iterations, which of them were healthy, and the export of the trained policy."""

from llds.callbacks.checkpoint.callback import IterationCheckpoint, list_checkpoints
from llds.callbacks.checkpoint.export import ExportPolicy
from llds.callbacks.checkpoint.healthy import HealthyCheckpoints

__all__ = ["ExportPolicy", "HealthyCheckpoints", "IterationCheckpoint", "list_checkpoints"]

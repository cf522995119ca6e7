"""Signals of an iteration that need a second look at its trajectories."""

from llds.callbacks.signals.callback import IterationSignals

__all__ = ["IterationSignals"]

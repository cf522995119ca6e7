"""Signals of an iteration that need a second look at its trajectories; all others are functions in `llds.metrics`."""

from llds.callbacks.signals.callback import IterationSignals

__all__ = ["IterationSignals"]

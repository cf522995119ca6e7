"""Signals of an iteration that need a second look at its trajectories; all others are pure functions in `llds.metrics`."""

from llds.callbacks.signals.callback import IterationSignals

__all__ = ["IterationSignals"]

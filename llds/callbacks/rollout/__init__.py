"""Rolls out every batch before it is trained on or evaluated."""

from llds.callbacks.rollout.callback import RolloutCallback

__all__ = ["RolloutCallback"]

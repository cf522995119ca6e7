"""The trajectory log: every turn as text, token ids and log-probabilities."""

from llds.callbacks.trajectory_log.callback import TrajectoryLog

__all__ = ["TrajectoryLog"]

"""Callbacks: rollout, retrieval, early warning, and what a run writes.

Each connects a part of llds that knows no Trainer (`llds.rollout`, `llds.monitor`, `llds.evaluation`, ...) to a run.
"""

from llds.callbacks.checkpoint import (
    ExportPolicy,
    GracefulStop,
    IterationCheckpoint,
    RunLock,
    Stopped,
    exit_status,
    list_checkpoints,
)
from llds.callbacks.collapse import CollapseMonitor
from llds.callbacks.evaluation import EvaluationTable
from llds.callbacks.policy_check import PolicyCheck
from llds.callbacks.probe import LLDProbe
from llds.callbacks.profile import IterationProfile
from llds.callbacks.progress import RolloutProgressBar
from llds.callbacks.report import RunReport
from llds.callbacks.retrieval import RetrievalCallback
from llds.callbacks.rollout import RolloutCallback
from llds.callbacks.signals import IterationSignals
from llds.callbacks.trajectory_log import TrajectoryLog

__all__ = [
    "CollapseMonitor",
    "EvaluationTable",
    "ExportPolicy",
    "GracefulStop",
    "IterationCheckpoint",
    "IterationProfile",
    "IterationSignals",
    "LLDProbe",
    "PolicyCheck",
    "RetrievalCallback",
    "RolloutCallback",
    "RolloutProgressBar",
    "RunLock",
    "RunReport",
    "Stopped",
    "TrajectoryLog",
    "exit_status",
    "list_checkpoints",
]

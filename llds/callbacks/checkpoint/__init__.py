"""What makes a run stoppable and resumable: checkpoints, which of them were healthy, signals, the export at the end."""

from llds.callbacks.checkpoint.callback import IterationCheckpoint
from llds.callbacks.checkpoint.export import ExportPolicy
from llds.callbacks.checkpoint.folder import list_checkpoints
from llds.callbacks.checkpoint.healthy import HealthyCheckpoints
from llds.callbacks.checkpoint.run_lock import RunLock
from llds.callbacks.checkpoint.stopping import GracefulStop, Stopped, exit_status

__all__ = [
    "ExportPolicy",
    "GracefulStop",
    "HealthyCheckpoints",
    "IterationCheckpoint",
    "RunLock",
    "Stopped",
    "exit_status",
    "list_checkpoints",
]

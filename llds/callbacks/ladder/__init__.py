"""What is done about a run in trouble: rungs of a ladder, each when its trouble comes (docs/acting.md)."""

from llds.callbacks.ladder.command import RunCommand
from llds.callbacks.ladder.cut_learning_rate import CutLearningRate
from llds.callbacks.ladder.ladder import Ladder
from llds.callbacks.ladder.messages import Log, Warn
from llds.callbacks.ladder.raise_lambda import RaiseLambda
from llds.callbacks.ladder.roll_back import RollBack
from llds.callbacks.ladder.rung import Incident, Moment, Rung
from llds.callbacks.ladder.save_checkpoint import SaveCheckpoint
from llds.callbacks.ladder.skip_update import SkipUpdate
from llds.callbacks.ladder.stop import Stop
from llds.callbacks.ladder.telling import MLflowTag, TrackioAlert, WandbAlert, Webhook
from llds.callbacks.ladder.when import Record, When

__all__ = [
    "CutLearningRate",
    "Incident",
    "Ladder",
    "Log",
    "MLflowTag",
    "Moment",
    "RaiseLambda",
    "Record",
    "RollBack",
    "RunCommand",
    "Rung",
    "SaveCheckpoint",
    "SkipUpdate",
    "Stop",
    "TrackioAlert",
    "WandbAlert",
    "Warn",
    "Webhook",
    "When",
]

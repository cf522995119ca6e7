"""A rung: one thing that can be done about a run in trouble. Subclass `Rung` to add another.

Every rank acts, at the same iterations and in the order of the ladder; what only one process should do stands in
`Rung.announce`, which rank 0 calls when the incident's folder is complete.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as pl

from llds.batches import RolloutBatch
from llds.callbacks.ladder.when import When
from llds.modules import SearchAgentModule
from llds.monitor import Diagnosis


@dataclass
class Moment:
    """The iteration at which rungs act.

    Attributes:
        trainer: Of the run.
        module: Of the run; its `iteration` is the number of the iteration that has just ended.
        batch: Of the iteration.
        diagnosis: What the detector says.
        scratch: Folder that becomes the incident's; None where none is written. Only rank 0 may rely on it.
        done: What the rungs before did, in words.
        restored: The checkpoint that the run went back to at this moment, if it did.
        stops: Whether the run ends here.
    """

    trainer: pl.Trainer
    module: SearchAgentModule
    batch: RolloutBatch
    diagnosis: Diagnosis
    scratch: Path | None = None
    done: list[str] = field(default_factory=list)
    restored: dict[str, Any] | None = None
    stops: bool = False


@dataclass(frozen=True)
class Incident:
    """What rank 0 tells the world.

    Attributes:
        run: Folder of the run.
        folder: Of the incident; None where it could not be written.
        diagnosis: What the detector says.
        done: What the rungs did, in words.
        line: All of it in one line.
    """

    run: Path
    folder: Path | None
    diagnosis: Diagnosis
    done: tuple[str, ...]
    line: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "run": str(self.run),
            "iteration": self.diagnosis.iteration,
            "message": self.line,
            "done": list(self.done),
            "incident": str(self.folder) if self.folder else None,
            "diagnosis": self.diagnosis.as_dict(),
        }


class Rung(ABC):
    """Something to do about a run in trouble.

    Args:
        when: When it acts.

    Attributes:
        before_update: Whether it is asked at the start of an iteration, by what the rollout shows, and not at its end.
    """

    before_update: ClassVar[bool] = False

    def __init__(self, when: When) -> None:
        self.when = when

    def check(self, trainer: pl.Trainer, module: SearchAgentModule) -> None:  # noqa: B027 (most need nothing)
        """Refuse, before training, a run in which it could not act.

        Raises:
            ConfigurationError: Naming what is missing.
        """

    @abstractmethod
    def act(self, moment: Moment) -> str | None:
        """Act, on every rank alike.

        Returns:
            What was done, in words that go on from "the run"; empty where it need not be told; None where nothing could
            be done, which then does not count as an action.
        """

    def announce(self, incident: Incident) -> None:  # noqa: B027 (most have nothing to say)
        """Tell the world, on rank 0; must neither wait nor raise."""

    def close(self) -> None:  # noqa: B027 (most hold nothing)
        """End what `announce` has started."""

    def state_dict(self) -> dict[str, Any]:
        """What it must remember beside its count, as plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 (most remember nothing)
        """Restore what `state_dict` returned."""

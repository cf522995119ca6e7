"""The collapse monitor: watches the signals of every iteration, says when a run is in trouble, and why, and acts.

Left out on purpose: the judgement, which needs no Lightning (`llds.monitor`); the actions (`llds.callbacks.ladder`).
"""

import copy
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_warn

from llds.batches import RolloutBatch
from llds.callbacks.collapse.incidents import IncidentFolder
from llds.callbacks.ladder import Incident, Ladder, Moment, Rung, Warn
from llds.callbacks.rollout.callback import RolloutCallback
from llds.errors import ConfigurationError
from llds.modules import SearchAgentModule
from llds.monitor import LEVELS, PHASES, CollapseDetector, Diagnosis, Settings
from llds.strategies import gather


class CollapseMonitor(pl.Callback):
    """Says one line when a warning begins and one when an alarm does, and does what its ladder says; else it is quiet.

    At a warning a person should look this hour: a fault shows, or the policy becomes unstable. An alarm means that
    reward is being lost, or is about to be, and that acting pays. What is unusual and also occurs in runs that go on
    well is a note, which is logged and not told. Logs ``collapse/level`` (0 none, 1 note, 2 warning, 3 alarm),
    ``collapse/phase`` (0 healthy, 1-3 as in the paper, 4 collapsed), ``collapse/confidence``, ``collapse/actions``
    (rungs that acted) and, where the run went back, ``collapse/back_to``.

    Whenever a rung acts, ``incidents/iteration-000123-<what>/`` keeps the signals, the decision in words, the
    configuration and the worst trajectories.

    Args:
        warmup: Iterations that give the baselines, and in which it is silent.
        ladder: What is done about trouble, lowest rung first; null only warns.
        incident_iterations: Iterations whose signals an incident's folder holds.
        incident_trajectories: Trajectories that it holds, the worst of the iteration.
        max_incidents: Most folders of a run; 0 writes none.

    Attributes:
        detector: The detector; ``detector.last`` is the newest diagnosis.
        ladder: The rungs and what they have done.
        has_stopped: Whether one has stopped the run.

    Raises:
        ConfigurationError: If a value is out of its range.
    """

    def __init__(
        self,
        warmup: int = 5,
        ladder: list[Rung] | None = None,
        incident_iterations: int = 50,
        incident_trajectories: int = 20,
        max_incidents: int = 50,
    ) -> None:
        if warmup < 3:
            raise ConfigurationError(
                f"Expected `collapse.warmup` >= 3 iterations, which give the baselines, got {warmup}."
            )
        counts = {"incident_iterations": incident_iterations, "incident_trajectories": incident_trajectories}
        for name, value in counts.items():
            if value < 1:
                raise ConfigurationError(f"Expected `collapse.{name}` >= 1, got {value}.")
        if max_incidents < 0:
            raise ConfigurationError(f"Expected `collapse.max_incidents` >= 0, got {max_incidents}.")
        self.detector = CollapseDetector(warmup)
        self.ladder = Ladder([Warn()] if ladder is None else ladder)
        self.max_incidents = max_incidents
        self._folder = IncidentFolder(incident_trajectories)
        self._signals: deque[dict[str, float]] = deque(maxlen=incident_iterations)
        self._incidents = 0
        self._done: dict[str, float] = {}  # what rungs did in the present iteration, as metrics
        self.has_stopped = False

    def setup(self, trainer: pl.Trainer, pl_module: SearchAgentModule, stage: str) -> None:
        """Let every rung look whether it can act in this run.

        Raises:
            ConfigurationError: If one cannot.
        """
        if stage != "fit":
            return
        objective = pl_module.objective
        self.detector.settings = Settings(
            llds=objective.active_llds is not None, importance_sampling=objective.importance is not None
        )
        for rung, _ in self.ladder:
            rung.check(trainer, pl_module)
        order = [type(one) for one in trainer.callbacks if isinstance(one, (CollapseMonitor, RolloutCallback))]  # type: ignore[attr-defined]
        if any(rung.before_update for rung in self.ladder.rungs) and order[:1] == [CollapseMonitor]:
            raise ConfigurationError(
                "Expected `CollapseMonitor` after `RolloutCallback` among the callbacks, because a rung of its ladder "
                "acts on what the rollout shows, got it before. Move it."
            )

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: SearchAgentModule, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Ask the rungs that act between rollout and update."""
        if any(rung.before_update for rung in self.ladder.rungs):
            preview = copy.deepcopy(self.detector)
            found = preview.update(pl_module.iteration + 1, gather(dict(batch.metrics))[0])
            self._act(trainer, pl_module, batch, found, before_update=True)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: SearchAgentModule, outputs: Any, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Judge the iteration, and act."""
        # Callbacks may have handed in metrics of a rank's own: all decide by rank 0's
        row = gather(dict(batch.metrics))[0]
        found = self.detector.update(pl_module.iteration, row)
        batch.metrics.hand_in("collapse", _signals(found))  # before a rung saves a checkpoint with the metrics
        self._signals.append(row | self._done | _signals(found))
        self._act(trainer, pl_module, batch, found)
        batch.metrics.hand_in("ladder", {"collapse/actions": 0.0} | self._done)
        self._done = {}

    def _act(
        self,
        trainer: pl.Trainer,
        pl_module: SearchAgentModule,
        batch: RolloutBatch,
        found: Diagnosis,
        *,
        before_update: bool = False,
    ) -> None:
        """Let the rungs act whose time has come, on all ranks alike."""
        due = gather(self.ladder.due(found, before_update=before_update))[0]
        if not due:
            return
        root = Path(trainer.default_root_dir)
        scratch = self._folder.open(root, found.iteration) if self._incidents < self.max_incidents else None
        moment = Moment(trainer, pl_module, batch, found, scratch)
        acted = [number for number in due if self._climb(number, moment)]
        if moment.stops:
            trainer.should_stop = self.has_stopped = True
        if moment.restored is not None:
            self._go_back(moment, moment.restored)
        if not acted:
            self._folder.discard(scratch)
            return
        self._done["collapse/actions"] = self._done.get("collapse/actions", 0.0) + len(acted)
        self._incidents += scratch is not None
        if trainer.is_global_zero:
            rungs = [self.ladder.rungs[number] for number in acted]
            folder = self._folder.close(moment, rungs[-1], list(self._signals))
            incident = Incident(root, folder, found, tuple(moment.done), _line(found, moment.done, folder))
            for rung in rungs:
                rung.announce(incident)

    def _climb(self, number: int, moment: Moment) -> bool:
        rung, record = self.ladder.rungs[number], self.ladder.records[number]
        words = rung.act(moment)
        if words is None:
            return False
        record.note(moment.diagnosis)
        moment.done += [words] * bool(words)
        return True

    def _go_back(self, moment: Moment, checkpoint: dict[str, Any]) -> None:
        """The detector, too, goes back to where the weights are; what the rungs remember does not."""
        self.detector.load_state_dict(checkpoint["callbacks"][self.state_key]["detector"])
        self.ladder.forget_trouble()
        self._done["collapse/back_to"] = float(checkpoint["search_agent"]["iteration"])

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give commands and webhooks the time that they may take."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave no command behind that nobody watches."""
        self._close()

    def _close(self) -> None:
        for rung in self.ladder.rungs:
            rung.close()

    def state_dict(self) -> dict[str, Any]:
        """The state of detector and ladder, and the signals for the next incident."""
        return {
            "detector": self.detector.state_dict(),
            "ladder": self.ladder.state_dict(),
            "signals": list(self._signals),
            "incidents": self._incidents,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the run was.

        Raises:
            ConfigurationError: If the checkpoint is of before there was a ladder.
        """
        if "detector" not in state_dict:
            raise ConfigurationError(
                "Expected a checkpoint with the state of `collapse`, got one that an earlier version of llds wrote. "
                "Start a new run from its weights: llds export CHECKPOINT FOLDER, then "
                "--model.policy FOLDER."
            )
        if "reward" in state_dict["detector"]:
            self.detector.load_state_dict(state_dict["detector"])
        else:
            rank_zero_warn(
                "An earlier version of llds wrote the checkpoint, with another detector of collapses: this one begins "
                f"anew, with {self.detector.warmup} iterations (`collapse.warmup`) in which it is silent."
            )
        self.ladder.load_state_dict(state_dict["ladder"])
        self._signals.extend(state_dict["signals"])
        self._incidents = state_dict["incidents"]


def _signals(found: Diagnosis) -> dict[str, float]:
    return {
        "collapse/level": float(LEVELS.index(found.level)),
        "collapse/phase": float(list(PHASES).index(found.phase)),
        "collapse/confidence": found.confidence,
    }


def _line(found: Diagnosis, done: Sequence[str], folder: Path | None) -> str:
    did = f" Done: {'; '.join(done)}." if done else ""
    return f"Iteration {found.iteration}: {found.message}{did}{f' ({folder})' if folder else ''}"

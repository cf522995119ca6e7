"""Trajectories on disk: one file per iteration of a training, and the output of ``llds predict``.

The file of an iteration is written whole when the iteration ends, or not at all; one that a resumed run repeats is
written again. Predictions are written as they come, and never over those of another command.
"""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info

from llds.batches import RolloutBatch
from llds.batches.loss_inputs import trajectory_advantages
from llds.callbacks.evaluation.card import make_card, policy_label
from llds.callbacks.trajectory_log.file import TrajectoryFile, TrajectoryUpdate
from llds.errors import ConfigurationError
from llds.evaluation import new_record_folder
from llds.modules import SearchAgentModule
from llds.types import Trajectory

_PREDICTIONS, _INTERRUPTED = "trajectories.jsonl.gz", "trajectories-interrupted.jsonl.gz"


class TrajectoryLog(pl.Callback):
    """Writes ``trajectories/iteration-000001.jsonl.gz`` while a run trains, and what ``llds predict`` predicts.

    Predictions go to ``evaluation/<time>-predict-<policy>/trajectories.jsonl.gz``, beside an evaluation card.

    Of the trajectories that `IterationSignals` scores once more after the updates, the file says how much
    log-likelihood each token gained or lost.

    Args:
        every_n_iterations: Iterations between two files.
        max_trajectories: Most trajectories of an iteration's file: those scored once more, then the first ones; None is
            all.

    Raises:
        ConfigurationError: If a number is out of its range.
    """

    def __init__(self, every_n_iterations: int = 1, max_trajectories: int | None = 64) -> None:
        if every_n_iterations < 1 or (max_trajectories is not None and max_trajectories < 1):
            raise ConfigurationError(
                "Expected `TrajectoryLog` to have every_n_iterations >= 1 and max_trajectories >= 1 or null, got "
                f"{every_n_iterations} and {max_trajectories}."
            )
        self.every_n_iterations = every_n_iterations
        self.max_trajectories = max_trajectories
        self._predictions: TrajectoryFile | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: SearchAgentModule, outputs: Any, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Write the iteration's file if one is due."""
        if pl_module.iteration % self.every_n_iterations:
            return
        if trainer.is_global_zero:
            path = Path(trainer.default_root_dir) / "trajectories" / f"iteration-{pl_module.iteration:06d}.jsonl.gz"
            file = TrajectoryFile(path, pl_module.tokenizer)
            file.write(self._logged(batch), _updates(batch))
            file.close()

    def _logged(self, batch: RolloutBatch) -> list[Trajectory]:
        """As many as are wanted, those whose tokens' changes are known before others, in their order."""
        changed = {id(batch.trained[row]) for row in batch.log_prob_changes}
        rows = sorted(range(len(batch.trajectories)), key=lambda row: id(batch.trajectories[row]) not in changed)
        return [batch.trajectories[row] for row in sorted(rows[: self.max_trajectories])]

    def on_predict_start(self, trainer: pl.Trainer, pl_module: SearchAgentModule) -> None:
        """Open the file of predictions."""
        if trainer.is_global_zero:
            folder = new_record_folder(Path(trainer.default_root_dir), "predict", policy_label(trainer, pl_module))
            self._predictions = TrajectoryFile(folder / _PREDICTIONS, pl_module.tokenizer)

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: SearchAgentModule, outputs: RolloutBatch, *_: Any
    ) -> None:
        """Write the batch's predictions, which every rank has."""
        if self._predictions is not None:
            self._predictions.write(outputs.trajectories)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: SearchAgentModule) -> None:
        """Write the card, and give the file of predictions its name."""
        card = make_card(trainer, pl_module)
        if self._predictions is not None:
            card_path = self._predictions.path.with_name("card.json")
            card_path.write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n")
            path = self._predictions.close()
            rank_zero_info(f"Predictions: {path} ({self._predictions.count} trajectories)")
            self._predictions = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Keep the predictions that were made."""
        if self._predictions is not None:
            path = self._predictions.close(_INTERRUPTED)
            rank_zero_info(f"The predictions so far: {path} ({self._predictions.count} trajectories)")
            self._predictions = None


def _updates(batch: RolloutBatch) -> dict[int, TrajectoryUpdate]:
    """What the updates did, by the identity of the trajectory; all have their advantage, some their changes."""
    tensors = batch.policy_batch
    if tensors is None:
        return {}
    masks, advantages, changes = (
        tensors.action_mask.cpu(),
        trajectory_advantages(tensors).tolist(),
        batch.log_prob_changes,
    )
    found = {}
    for row, trajectory in enumerate(batch.trained):
        change = changes[row][: masks.shape[1]][masks[row][: len(changes[row])]].tolist() if row in changes else None
        found[id(trajectory)] = TrajectoryUpdate(advantages[row], change)
    return found

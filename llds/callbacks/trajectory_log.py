"""Trajectories on disk: one file per iteration of a training, and the output of ``llds predict``.

The file of an iteration is written whole when the iteration ends, or not at all; one that a resumed run repeats is
written again. Predictions are written as they come, and never over those of another command.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from llds.callbacks.evaluation_card import make_card, policy_label
from llds.callbacks.trajectory_file import TrajectoryFile, TrajectoryUpdate
from llds.data import RolloutBatch
from llds.errors import ConfigurationError
from llds.evaluation import new_record_folder
from llds.modules import SearchAgentModule
from llds.types import Trajectory

_PREDICTIONS, _INTERRUPTED = "trajectories.jsonl.gz", "trajectories-interrupted.jsonl.gz"


class TrajectoryLog(pl.Callback):
    """Writes ``trajectories/iteration-000001.jsonl.gz`` while a run trains, and what ``llds predict`` predicts.

    Predictions go to ``evaluation/<time>-predict-<policy>/trajectories.jsonl.gz``, beside an evaluation card.

    What the updates themselves see of a trajectory is from before the step that trains on it. So some are scored once
    more when the updates are over: of these the file says how much log-likelihood each token gained or lost.

    Args:
        every_n_iterations: Iterations between two files.
        max_trajectories: Most trajectories of an iteration's file, the first ones; None is all.
        rescored: Trajectories among them that are scored once more, whole groups, those with right and wrong answers
            first; the cost is so many trajectories' share of the iteration's scoring. 0 leaves the changes out.

    Raises:
        ConfigurationError: If a number is out of its range.
    """

    def __init__(self, every_n_iterations: int = 1, max_trajectories: int | None = 64, rescored: int = 16) -> None:
        if every_n_iterations < 1 or (max_trajectories is not None and max_trajectories < 1) or rescored < 0:
            raise ConfigurationError(
                "Expected `TrajectoryLog` to have every_n_iterations >= 1, max_trajectories >= 1 or null, and "
                f"rescored >= 0, got {every_n_iterations}, {max_trajectories} and {rescored}."
            )
        self.every_n_iterations = every_n_iterations
        self.max_trajectories = max_trajectories
        self.rescored = rescored
        self._predictions: TrajectoryFile | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: SearchAgentModule, outputs: Any, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Write the iteration's file if one is due."""
        if pl_module.iteration % self.every_n_iterations:
            return
        changes = self._changes(pl_module, batch)
        if trainer.is_global_zero:
            path = Path(trainer.default_root_dir) / "trajectories" / f"iteration-{pl_module.iteration:06d}.jsonl.gz"
            file = TrajectoryFile(path, pl_module.tokenizer)
            file.write(batch.trajectories[: self.max_trajectories], _updates(batch, changes))
            file.close()

    def _changes(self, pl_module: SearchAgentModule, batch: RolloutBatch) -> dict[int, Tensor]:
        """By row, the change of each token's log-likelihood over the iteration's updates, of those scored once more."""
        logged = {id(trajectory) for trajectory in batch.trajectories[: self.max_trajectories]}
        rows = [row for row, trajectory in enumerate(batch.trained) if id(trajectory) in logged]
        tensors = batch.policy_batch
        if tensors is None or tensors.old_log_probs is None:
            return {}
        chosen = torch.tensor(_informative_first(rows, batch.trained)[: self.rescored], dtype=torch.long)
        if not len(chosen):
            return {}
        sample = tensors.rows(chosen.to(tensors.input_ids.device))
        assert sample.old_log_probs is not None  # noqa: S101 (the batch has them)
        change = (pl_module.score(pl_module.policy, sample) - sample.old_log_probs).cpu()
        return dict(zip(chosen.tolist(), change, strict=True))

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


def _informative_first(rows: Sequence[int], trajectories: Sequence[Trajectory]) -> list[int]:
    """The rows by group, the groups with right and wrong answers first."""
    rewards: dict[str, set[bool]] = {}
    for row in rows:
        rewards.setdefault(trajectories[row].group_id, set()).add(trajectories[row].reward > 0)
    return sorted(rows, key=lambda row: -len(rewards[trajectories[row].group_id]))


def _updates(batch: RolloutBatch, changes: Mapping[int, Tensor]) -> dict[int, TrajectoryUpdate]:
    """What the updates did, by the identity of the trajectory; all have their advantage, some their changes."""
    tensors = batch.policy_batch
    if tensors is None:
        return {}
    masks, advantages = tensors.action_mask.cpu(), tensors.advantages.tolist()
    found = {}
    for row, trajectory in enumerate(batch.trained):
        change = changes[row][masks[row][: len(changes[row])]].tolist() if row in changes else None
        found[id(trajectory)] = TrajectoryUpdate(advantages[row], change)
    return found

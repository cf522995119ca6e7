"""Trajectories on disk: one gzipped JSONL file per iteration, and the output of ``llds predict``.

A file is written whole when its iteration ends, or not at all; an iteration that a resumed run repeats writes it again.
"""

import gzip
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info
from transformers import PreTrainedTokenizerBase

from llds.data import RolloutBatch
from llds.errors import ConfigurationError
from llds.modules import SearchAgentModule
from llds.types import Trajectory


class TrajectoryLog(pl.Callback):
    """Writes ``trajectories/iteration-000001.jsonl.gz``, and ``predictions.jsonl.gz`` for ``llds predict``.

    Args:
        every_n_iterations: Iterations between two files.
        max_trajectories: Most trajectories of an iteration's file, the first ones; None is all.

    Raises:
        ConfigurationError: If a number is below 1.
    """

    def __init__(self, every_n_iterations: int = 1, max_trajectories: int | None = 64) -> None:
        if every_n_iterations < 1 or (max_trajectories is not None and max_trajectories < 1):
            raise ConfigurationError(
                "Expected `TrajectoryLog` to have every_n_iterations >= 1 and max_trajectories >= 1 or null, "
                f"got {every_n_iterations} and {max_trajectories}."
            )
        self.every_n_iterations = every_n_iterations
        self.max_trajectories = max_trajectories
        self._predicted: list[Trajectory] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: SearchAgentModule, outputs: Any, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Write the iteration's file if one is due."""
        if trainer.is_global_zero and pl_module.iteration % self.every_n_iterations == 0:
            path = Path(trainer.default_root_dir) / "trajectories" / f"iteration-{pl_module.iteration:06d}.jsonl.gz"
            write_trajectories(path, batch.trajectories[: self.max_trajectories], pl_module.tokenizer)

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: SearchAgentModule, outputs: RolloutBatch, *_: Any
    ) -> None:
        """Keep the batch's predictions."""
        self._predicted += outputs.trajectories

    def on_predict_end(self, trainer: pl.Trainer, pl_module: SearchAgentModule) -> None:
        """Write all predictions."""
        path = Path(trainer.default_root_dir) / "predictions.jsonl.gz"
        write_trajectories(path, self._predicted, pl_module.tokenizer)
        rank_zero_info(f"Predictions: {path} ({len(self._predicted)} trajectories)")
        self._predicted = []


def write_trajectories(path: Path, trajectories: Sequence[Trajectory], tokenizer: PreTrainedTokenizerBase) -> None:
    """Write trajectories as gzipped JSONL: summary, then each turn with its text, ids and log-probabilities."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{path.name}")
    with gzip.open(partial, "wt", encoding="utf-8") as file:
        for trajectory in trajectories:
            file.write(json.dumps(_record(trajectory, tokenizer), ensure_ascii=False) + "\n")
    os.replace(partial, path)


def _record(trajectory: Trajectory, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    turns = [
        {
            "action": tokenizer.decode(turn.action_ids),
            "kind": turn.action.kind,
            "action_ids": turn.action_ids,
            "behavior_log_probs": [round(value, 6) for value in turn.behavior_log_probs],
            "observation": tokenizer.decode(turn.observation_ids),
            "observation_ids": turn.observation_ids,
            "document_ids": turn.document_ids,
            "tool_s": round(turn.tool_s, 4),
        }
        for turn in trajectory.turns
    ]
    return trajectory.describe() | {"prompt_ids": trajectory.prompt.prompt_ids, "turns": turns}

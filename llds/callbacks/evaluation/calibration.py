"""Calibration of the answers of ``llds test`` and ``llds validate``."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info

from llds.batches import RolloutBatch
from llds.batches.answer_span import answer_span
from llds.evaluation.calibration import BINS, calibrate, reliability_picture
from llds.modules import SearchAgentModule
from llds.rewards import exact_match
from llds.strategies import gather
from llds.types import Trajectory


class AnswerCalibration(pl.Callback):
    """Says whether answers that the policy finds likely are right as often: ECE, Brier score, a reliability diagram.

    An answer's likelihood is the probability that the policy gives to its tokens, tags included, as the sampler had it
    (at temperature 0: that of temperature 1); right means an exact match. Questions without an answer do not count.
    Writes ``calibration-<command>.json`` and ``.svg`` to the run's folder, over those of an evaluation before.

    Args:
        bins: Of the likelihood, at least 1.
    """

    def __init__(self, bins: int = BINS) -> None:
        self.bins = max(bins, 1)
        self._seen: list[tuple[float, float]] = []

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin anew."""
        self._seen = []

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin anew."""
        self._seen = []

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: SearchAgentModule, outputs: Any, batch: RolloutBatch, *others: Any
    ) -> None:
        """Keep likelihood and correctness of the batch's answers."""
        self._seen += [pair for one in batch.trajectories if (pair := _judge(pl_module, one)) is not None]

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: SearchAgentModule, outputs: Any, batch: RolloutBatch, *others: Any
    ) -> None:
        """Likewise."""
        self.on_test_batch_end(trainer, pl_module, outputs, batch)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say and write it."""
        self._write(trainer, "test")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say and write it, unless training goes on."""
        if trainer.state.fn == "validate":
            self._write(trainer, "validate")

    def _write(self, trainer: pl.Trainer, stage: str) -> None:
        seen = [pair for part in gather(self._seen) for pair in part]
        if not trainer.is_global_zero:
            return
        if not seen:
            rank_zero_info("Calibration: no question was given an answer, so there is nothing to calibrate.")
            return
        found = calibrate([one for one, _ in seen], [right for _, right in seen], self.bins)
        path = Path(trainer.default_root_dir) / f"calibration-{stage}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".json").write_text(json.dumps(asdict(found), indent=2) + "\n", encoding="utf-8")
        path.with_suffix(".svg").write_text(reliability_picture(found), encoding="utf-8")
        rank_zero_info(
            f"Calibration of {found.n} answers: ECE {found.expected_error:.3f}, Brier {found.brier:.3f}; likely to "
            f"{found.likelihood:.0%} on average, {found.correct:.0%} are right: {path}.json, .svg"
        )


def _judge(module: SearchAgentModule, trajectory: Trajectory) -> tuple[float, float] | None:
    """Likelihood of the answer, and 1 where it is right; None without an answer."""
    answer = None if trajectory.status == "failed" else trajectory.answer
    span = answer_span(trajectory, module.tokenizer, module.protocol.answer_mark)
    if answer is None or not span:
        return None
    log_probs = trajectory.turns[-1].behavior_log_probs[-len(span) :]
    return math.exp(math.fsum(log_probs)), exact_match(answer, trajectory.prompt.golden_answers)

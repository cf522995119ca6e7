"""The evaluation half of the search agent: validation, test and predict steps, and their results.

`RolloutCallback` fills each batch with the rewarded trajectories of all ranks before a step sees it; a step keeps a
small record of each, so that every rank has all of them, each question once.
"""

from typing import Any

import lightning.pytorch as pl
from transformers import PreTrainedTokenizerBase

from llds.batches import RolloutBatch
from llds.evaluation import QuestionResult, measure_question, summarize


class EvaluationSteps(pl.LightningModule):
    """Keeps what an evaluation showed, and logs the results by data source.

    Attributes:
        tokenizer: The policy's tokenizer.
        evaluated: Questions of the evaluation under way, or of the last.
        iteration: Rollout iterations done.
    """

    tokenizer: PreTrainedTokenizerBase
    evaluated: list[QuestionResult]
    iteration: int

    def on_validation_epoch_start(self) -> None:
        """Forget the questions of the last evaluation."""
        self.evaluated = []

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: RolloutBatch, batch_idx: int) -> None:
        """Measure the batch's trajectories, which `RolloutCallback` rewarded."""
        self.evaluated += [measure_question(trajectory, self.tokenizer.decode) for trajectory in batch.trajectories]

    test_step = validation_step

    def predict_step(self, batch: RolloutBatch, batch_idx: int) -> RolloutBatch:
        """Return the batch with its trajectories: of bare ones, Lightning would take the insides to the processor."""
        return batch

    def on_validation_epoch_end(self) -> None:
        """Log the results by data source."""
        self._log_evaluation("val")

    def on_test_epoch_end(self) -> None:
        """Log the results by data source."""
        self._log_evaluation("test")

    def place(self) -> dict[str, float]:
        """Where the run stands; loggers take ``step`` (optimizer steps) as the horizontal axis."""
        return {"iteration": float(self.iteration), "step": float(self.trainer.global_step)}

    def _log_evaluation(self, root: str) -> None:
        if not self.evaluated:
            return
        summary = summarize(self.evaluated)
        sources = summary.sources if len(summary.sources) > 1 else ()  # one source: the total is the same
        values: dict[str, Any] = self.place() if self.trainer.state.fn == "fit" else {}
        values |= {f"{root}/{key}": value for key, value in summary.all_questions.metrics().items()}
        for source in sources:
            values |= {f"{root}/{source.name}/{key}": value for key, value in source.metrics().items()}
        for average in summary.averages:
            values[f"{root}/average/{average.name}/exact_match"] = average.exact_match.value
        self.log_dict(values, sync_dist=True)  # all ranks have the same values

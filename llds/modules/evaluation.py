"""What an evaluation showed: a small record of each question, and the results by data source.

`RolloutCallback` fills each batch with the rewarded trajectories of all ranks, so that every rank has all questions,
each once.

Left out on purpose: the statistics (`llds.evaluation`), and the table and card (`llds.callbacks.evaluation`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
from transformers import PreTrainedTokenizerBase

from llds.batches import RolloutBatch
from llds.evaluation import QuestionResult, measure_question, summarize
from llds.modules.measuring import write
from llds.types import Trajectory


class Evaluation:
    """The evaluation under way, or the last.

    Attributes:
        questions: What became of each question so far.
    """

    def __init__(self) -> None:
        self.questions: list[QuestionResult] = []

    def begin(self) -> None:
        """Forget the questions of the last evaluation."""
        self.questions = []

    def add(self, trajectories: Sequence[Trajectory], decode: Callable[[list[int]], Any]) -> None:
        """Measure trajectories.

        Args:
            trajectories: One per question, rewarded.
            decode: Makes text of token ids.
        """
        self.questions += [measure_question(trajectory, decode) for trajectory in trajectories]

    def metrics(self, root: str) -> dict[str, float]:
        """The results over all questions, by data source where there are several, and averages; empty without any.

        Args:
            root: First part of each key, such as ``val``.
        """
        if not self.questions:
            return {}
        summary = summarize(self.questions)
        sources = summary.sources if len(summary.sources) > 1 else ()  # one source: the total is the same
        values = {f"{root}/{key}": value for key, value in summary.all_questions.metrics().items()}
        for source in sources:
            values |= {f"{root}/{source.name}/{key}": value for key, value in source.metrics().items()}
        for average in summary.averages:
            values[f"{root}/average/{average.name}/exact_match"] = average.exact_match.value
        return values

    def log(self, module: pl.LightningModule, root: str, place: Mapping[str, float]) -> None:
        """Hand the results to Lightning, and in the middle of a training to its loggers.

        Args:
            module: Is evaluated.
            root: First part of each key, such as ``val``.
            place: Where the run stands.
        """
        found = self.metrics(root)
        is_training = module.trainer.state.fn == "fit"
        if found:
            module.log_dict(found, logger=not is_training, sync_dist=True)  # all ranks have the same values
        if found and is_training and not module.trainer.sanity_checking:
            write(module.loggers, {**place, **found})


class EvaluatedModule(pl.LightningModule, ABC):
    """A module that measures the trajectories of validation and test, which `RolloutCallback` rewarded.

    Attributes:
        evaluation: What the evaluation under way, or the last, showed.
        tokenizer: Makes text of token ids.
    """

    evaluation: Evaluation
    tokenizer: PreTrainedTokenizerBase

    @abstractmethod
    def place(self) -> dict[str, float]:
        """Where the run stands, for loggers."""

    def on_validation_epoch_start(self) -> None:
        """Forget the questions of the last evaluation."""
        self.evaluation.begin()

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: RolloutBatch, batch_idx: int) -> None:
        """Measure the batch's trajectories."""
        self.evaluation.add(batch.trajectories, self.tokenizer.decode)

    test_step = validation_step

    def predict_step(self, batch: RolloutBatch, batch_idx: int) -> RolloutBatch:
        """Return the batch with its trajectories: of bare ones, Lightning would take the insides to the processor."""
        return batch

    def on_validation_epoch_end(self) -> None:
        """Log the results by data source."""
        self.evaluation.log(self, "val", self.place())

    def on_test_epoch_end(self) -> None:
        """Log the results by data source."""
        self.evaluation.log(self, "test", self.place())

"""What an experiment keeps of a run: every signal that llds logs, one compact row per iteration.

The records of a study are one table (`tools/study.py`), whose columns are the signals' names. Times are left out.
"""

from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch

from llds.batches import PolicyBatch, RolloutBatch
from llds.batches.policy_batch import collate
from llds.modules import MetricSource, SearchAgentModule
from llds.types import Trajectory
from tools.experiments.tasks import RUNS, Settings, Task, train

RECORDS = Path(__file__).parent / "records"
PROBE_SIZE = 48
Row = dict[str, Any]


class Record(pl.Callback):
    """Keeps the metrics of each iteration; the last of the callbacks.

    Attributes:
        rows: One per iteration.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: SearchAgentModule, outputs: Any, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Keep them."""
        kept = {name: value for name, value in batch.metrics.items() if not name.startswith("time/")}
        self.rows.append({"iteration": pl_module.iteration} | kept)


class FixedSet(MetricSource):
    """Scores the same correct trajectories of the start policy at the end of every iteration.

    Logs ``policy/fixed_log_likelihood``, the mean over trajectories of their mean per token, in nats.

    Args:
        trajectories: Scored.
    """

    part: ClassVar[str] = "fixed_set"

    def __init__(self, trajectories: list[Trajectory]) -> None:
        self.batch = collate(trajectories)

    def measure(self, trainer: pl.Trainer, pl_module: SearchAgentModule, batch: RolloutBatch) -> dict[str, float]:
        """Score them with the weights after the iteration's updates."""
        return {"policy/fixed_log_likelihood": mean_log_likelihood(pl_module, self.batch)}


def mean_log_likelihood(agent: SearchAgentModule, batch: PolicyBatch) -> float:
    """Mean over trajectories of their actions' mean log-likelihood per token, under the present weights."""
    log_probs = agent.score(agent.policy, batch)
    mask = batch.action_mask
    return float(((log_probs * mask).sum(dim=1) / mask.sum(dim=1)).mean())


class Collect(pl.Callback):
    """Keeps the correct trajectories that are rolled out.

    Attributes:
        correct: Those with a reward above 0.
    """

    def __init__(self) -> None:
        self.correct: list[Trajectory] = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: SearchAgentModule, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Keep them."""
        self.correct += [trajectory for trajectory in batch.trajectories if trajectory.is_correct]


def correct_trajectories(task: Task, count: int = PROBE_SIZE) -> list[Trajectory]:
    """Correct trajectories of the start policy, on questions in an order of their own; kept in a file once made."""
    path = RUNS / f"{task.name}-fixed.pt"
    if not path.exists():
        collect = Collect()
        # Without a learning rate, the weights stay as they are
        train(task, Settings(learning_rate=0.0, llds={"coefficient": 0.0}, iterations=12, seed=9_999), [collect])
        if len(collect.correct) < count:
            raise RuntimeError(
                f"Expected {count} correct trajectories of the start policy, got {len(collect.correct)}."
            )
        picked = torch.randperm(len(collect.correct), generator=torch.Generator().manual_seed(0))[:count]
        torch.save([collect.correct[number] for number in sorted(picked.tolist())], path)
    trajectories: list[Trajectory] = torch.load(path, weights_only=False)  # its own file
    return trajectories

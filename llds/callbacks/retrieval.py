"""The life of the retriever beside a run: open (build what is missing, verify), attach, measure, close.

Left out on purpose: the search itself (`llds.retrieval`) and its failures, which are the trajectories'.
"""

import time
from collections.abc import Sequence
from typing import ClassVar

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info

from llds.agent_tools import SearchStatistics, SearchTool
from llds.batches import RolloutBatch
from llds.errors import ConfigurationError
from llds.evaluation import found_gold
from llds.modules import MetricSource, SearchAgentModule
from llds.retrieval import Retriever
from llds.strategies import gather, together
from llds.types import Trajectory


class RetrievalCallback(MetricSource):
    """Gives the agent's search tools their retriever.

    Args:
        retriever: Finds passages; None for an agent without a search tool.
        patience_s: Longest time that searches wait for a retrieval server that does not answer, in seconds, as while it
            is started anew; the tries of `rollout.tool_calls` must last as long. 0 does not wait.

    Raises:
        ConfigurationError: If the patience is negative.
    """

    part: ClassVar[str] = "retrieval"

    def __init__(self, retriever: Retriever | None = None, patience_s: float = 60.0) -> None:
        if patience_s < 0:
            raise ConfigurationError(f"Expected `retrieval.patience_s` >= 0, got {patience_s}.")
        self.retriever = retriever
        self.patience_s = patience_s
        self._tools: list[SearchTool] = []

    def setup(self, trainer: pl.Trainer, pl_module: SearchAgentModule, stage: str) -> None:
        """Open the retriever and attach it.

        Raises:
            ConfigurationError: If the agent searches and there is no retriever.
            RetrievalError: If the retriever's index cannot be used.
        """
        self._tools = [tool for tool in pl_module.all_tools if isinstance(tool, SearchTool)]
        if not self._tools:
            return
        if self.retriever is None:
            raise ConfigurationError(
                "Expected `retrieval.retriever` to be set, because the agent has a search tool, got null. "
                "Name a retriever, such as `class_path: llds.retrieval.ChromaRetriever`."
            )
        started = time.perf_counter()
        self._open(self.retriever, trainer)
        name, seconds = type(self.retriever).__name__, time.perf_counter() - started
        rank_zero_info(f"{name} ready in {seconds:.1f} s (fingerprint {self.retriever.fingerprint})")
        for tool in self._tools:
            tool.attach(self.retriever, self.patience_s)

    def _open(self, retriever: Retriever, trainer: pl.Trainer) -> None:
        """Open it on every rank: rank 0 first, which builds a missing index, then the first of each machine."""
        turn = 0 if trainer.is_global_zero else 1 if trainer.local_rank == 0 else 2
        for now in range(3):
            together(retriever.open if now == turn else lambda: None)

    @property
    def opened(self) -> Retriever | None:
        """The retriever, where a tool of the agent uses it."""
        return self.retriever if self._tools else None

    def measure(self, trainer: pl.Trainer, pl_module: SearchAgentModule, batch: RolloutBatch) -> dict[str, float]:
        """The retrieval's signals; none of an agent without a search tool."""
        if not self._tools:
            return {}
        statistics = [one for tool in self._tools for one in batch.tool_statistics[tool]]
        return self._metrics(pl_module, batch.trajectories, statistics)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Close the retriever."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Close the retriever."""
        self._close()

    def _close(self) -> None:
        if self._tools and self.retriever is not None:
            self.retriever.close()

    def _metrics(
        self, pl_module: SearchAgentModule, trajectories: Sequence[Trajectory], mine: list[SearchStatistics]
    ) -> dict[str, float]:
        """Queries, the shares that were asked before and that found nothing; failed calls and seconds of one; hits."""
        statistics = [one for share in gather(mine) for one in share]
        queries = sum(one.queries for one in statistics)
        calls = sum(one.calls for one in statistics)
        values = {"retrieval/queries": float(queries)}
        if queries:
            values["retrieval/asked_before"] = sum(one.cached for one in statistics) / queries
            # What is remembered depends on when the run last started, and so is not a signal of its own.
            values["time/retrieval_remembered"] = sum(one.remembered for one in statistics) / queries
            values["retrieval/empty_searches"] = sum(one.empty for one in statistics) / queries
        if calls:  # how queries fall into calls is a matter of time, and so is not a signal of its own
            values["time/retrieval_call_s"] = sum(one.retriever_s for one in statistics) / calls
            values["retrieval/failed_calls"] = float(sum(one.failed_calls for one in statistics))
        alive = [trajectory for trajectory in trajectories if trajectory.status != "failed"]
        hits = [hit for one in alive if (hit := found_gold(one, pl_module.tokenizer.decode)) is not None]
        if hits:
            values["retrieval/hit_rate"] = sum(hits) / len(hits)
        return values

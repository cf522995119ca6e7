"""The batch of one rollout iteration, filled in as it travels.

`PromptLoader` makes it with prompts only; the rollout adds trajectories and then tensors; the module trains on it; the
callbacks read its timings and metrics. One object all the way, so that nothing is matched up again later.

Deliberately neither a dataclass nor a mapping nor a sequence: Lightning's precision plugins recurse into those, copy
them and cast their floats. `to` returns the object itself, so that Lightning's transfer to the device leaves it alone.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor

from llds.batches.iteration_metrics import IterationMetrics
from llds.types import Prompt, Trajectory

if TYPE_CHECKING:
    from llds.agent_tools import AgentTool
    from llds.batches.policy_batch import PolicyBatch


class RolloutBatch:
    """Prompts of one iteration and all that becomes of them.

    Args:
        prompts: The questions, in the order in which they are rolled out.

    Attributes:
        prompts: The questions, also those that were drawn beside the loader's.
        trajectories: What the rollout left; empty before it.
        trained: The trajectories that are the rows of `policy_batch`, in order.
        policy_batch: The tensors to train on; None before the rollout and in evaluation.
        updated_log_probs: Of the rows of `policy_batch`, as the updates last saw them, ``[B, T]``; None before.
        log_prob_changes: By row of `policy_batch`, what all updates added to each token's log-probability, ``[T]`` on
            the CPU; of the rows that were scored once more.
        tool_statistics: What each agent tool counted in this rank's share of each rollout of the iteration.
        timings: Seconds by phase, such as ``rollout`` or ``score``.
        metrics: Metrics of this iteration by their full key; each source hands in its part.
    """

    def __init__(self, prompts: list[Prompt]) -> None:
        self.prompts = prompts
        self.trajectories: list[Trajectory] = []
        self.trained: list[Trajectory] = []
        self.policy_batch: PolicyBatch | None = None
        self.updated_log_probs: Tensor | None = None
        self.log_prob_changes: dict[int, Tensor] = {}
        self.tool_statistics: dict[AgentTool, list[Any]] = {}
        self.timings: dict[str, float] = {}
        self.metrics = IterationMetrics()

    def __len__(self) -> int:
        """Number of prompts."""
        return len(self.prompts)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Record the seconds of a phase."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.timings[phase] = time.perf_counter() - started

    def to(self, device: Any, non_blocking: bool = False) -> "RolloutBatch":
        """Return the batch itself: prompts are not tensors, and the tensors made from them are placed by their maker.

        Args:
            device: Ignored.
            non_blocking: Ignored.
        """
        return self

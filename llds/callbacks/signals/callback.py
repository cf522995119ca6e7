"""The signals of an iteration that need another look at the policy, or a memory of the iterations before.

After the updates a few trajectories are scored once more: some of the iteration's own, whose likelihood the updates
changed (definition 4.1 of arXiv 2512.04220 v2: what the updates themselves see of a trajectory is from before the step
that trains on it), and a fixed set of early correct ones, whose likelihood tells what the policy forgets. The
trajectory log writes the same changes down token by token. Two more kinds of signals can be had of the same pass: how
likely the policy finds observations, and the marks of calls where it wrote something else (`llds.metrics.unsampled`).

Left out on purpose: all that follows from trajectories and tensors of the iteration alone (`llds.metrics`).
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from torch import Tensor

from llds.batches import PolicyBatch, RolloutBatch
from llds.batches.loss_inputs import observation_mask
from llds.batches.policy_batch import collate
from llds.callbacks.signals.control_tokens import control_tokens
from llds.callbacks.signals.early_correct import EarlyCorrect
from llds.data import PromptLoader, SeenPrompts
from llds.errors import ConfigurationError
from llds.losses.masking import masked
from llds.metrics import as_floats, control_metrics, displacement_metrics, has_answer, observation_metrics
from llds.metrics.averages import masked_mean
from llds.modules import MetricSource, SearchAgentModule
from llds.types import Trajectory

_AT_LEAST = 8
"""Trajectories of its own that an iteration scores once more, however many it has."""


class IterationSignals(MetricSource):
    """Adds ``llds/displacement_*``, ``llds/lld_*``, ``policy/probe_log_likelihood`` and ``data/repeated_prompts``.

    Args:
        rescored_share: Share of an iteration's trajectories, 0-1, at least 8, that are scored once more after its
            updates: whole groups, those with right and wrong answers first. Half as many are the fixed set. The cost is
            about a fifth of the share, in time; 0 leaves these signals out.
        observation_ratio: Whether to add ``policy/observation_*``, of the iteration's trajectories among those. Scores
            them under the reference too, which is kept in memory for it where the loss needs none.
        control_tokens: Whether to add ``policy/control_*`` of them.

    Attributes:
        early: The fixed set.

    Raises:
        ConfigurationError: If the share is out of its range, or 0 where signals need it.
    """

    part: ClassVar[str] = "signals"

    def __init__(
        self, rescored_share: float = 0.025, observation_ratio: bool = False, control_tokens: bool = False
    ) -> None:
        if not 0 <= rescored_share <= 1:
            raise ConfigurationError(
                f"Expected `signals.rescored_share` to be a share in [0, 1], got {rescored_share}."
            )
        if rescored_share == 0 and (observation_ratio or control_tokens):
            raise ConfigurationError(
                "Expected `signals.rescored_share` above 0 for `signals.observation_ratio` and "
                "`signals.control_tokens`, which are measured on what is scored once more, got 0. Raise it."
            )
        self.rescored_share = rescored_share
        self.observation_ratio = observation_ratio
        self.control_tokens = control_tokens
        self.early = EarlyCorrect()
        self._seen = SeenPrompts()
        self._control: list[int] = []

    def setup(self, trainer: pl.Trainer, pl_module: SearchAgentModule, stage: str) -> None:
        """Ask for the reference before the module loads its models."""
        pl_module.keeps_reference = pl_module.keeps_reference or self.observation_ratio

    def measure(self, trainer: pl.Trainer, pl_module: SearchAgentModule, batch: RolloutBatch) -> dict[str, float]:
        """Score once more, and compare."""
        started = time.perf_counter()
        values = self._rescored(pl_module, batch) if self.rescored_share > 0 else {}
        loader = trainer.train_dataloader
        if isinstance(loader, PromptLoader) and loader.mixture.weights is None:  # weights repeat prompts on purpose
            values["data/repeated_prompts"] = self._seen.add(batch.prompts, len(loader.prompts))
        return values | {"time/signals_s": time.perf_counter() - started}

    def _rescored(self, pl_module: SearchAgentModule, batch: RolloutBatch) -> dict[str, float]:
        """What the policy now says of some of the iteration's trajectories and of the fixed set, in one pass."""
        size = max(_AT_LEAST, round(self.rescored_share * len(batch.trained)))
        self.early.collect(batch.trained, size // 2)
        before = batch.policy_batch
        rows = [] if before is None else _informative_first(batch.trained)[:size]
        rescored = [*(batch.trained[row] for row in rows), *self.early.trajectories]
        if not rescored:
            return {}
        tensors = collate(rescored).to(pl_module.device)
        own, early = slice(0, len(rows)), slice(len(rows), None)
        after, unsampled = self._score(pl_module, tensors, len(rows))
        probe = masked_mean(after[early], tensors.action_mask[early])
        values: dict[str, Tensor | float] = {"policy/probe_log_likelihood": probe, **unsampled}
        if before is None or before.old_log_probs is None:
            return as_floats(values)
        width = tensors.input_ids.shape[1]
        old = before.old_log_probs[torch.tensor(rows, device=before.old_log_probs.device), :width]
        old = torch.nn.functional.pad(old, (0, width - old.shape[1]))
        batch.log_prob_changes = dict(zip(rows, (after[own] - old).cpu(), strict=True))
        return as_floats(values) | displacement_metrics(
            before=old,
            after=after[own],
            action_index=tensors.action_index[own],
            answered=has_answer(rescored[own]),
            correct=tensors.correct[own],
        )

    def _score(self, agent: SearchAgentModule, batch: PolicyBatch, own: int) -> tuple[Tensor, dict[str, float]]:
        """Log-probabilities of the actions, and the signals of what else the first ``own`` rows hold."""
        observed = observation_mask(batch)
        observed[own:] = False
        index = torch.where(observed, 0, batch.action_index) if self.observation_ratio else batch.action_index
        seen = replace(batch, action_index=index)
        if not self.control_tokens:
            [log_probs] = agent.scores(agent.policy, seen, "log_probs")
            signals = {}
        else:
            control = torch.tensor(self._control_tokens(agent), device=agent.device)
            log_probs, probability = agent.scores(agent.policy, seen, "log_probs", "watched", watched=control)
            signals = control_metrics(probability[:own], batch.input_ids[:own], batch.action_mask[:own], control)
        if self.observation_ratio and observed.any():
            rows = torch.arange(own, device=agent.device)
            only = replace(batch, action_index=torch.where(observed, 0, -1)).rows(rows)
            here = slice(own), slice(only.input_ids.shape[1])
            signals |= observation_metrics(log_probs[here], agent.score_reference(only), observed[here])
        return masked(log_probs, batch.action_mask), signals

    def _control_tokens(self, agent: SearchAgentModule) -> list[int]:
        """Found out once: the protocol has met the tokenizer by now."""
        self._control = self._control or control_tokens(agent)
        return self._control

    def state_dict(self) -> dict[str, Any]:
        """The fixed set, and the prompts of the present pass."""
        return {"early": self.early.state_dict(), "seen": self._seen.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the run was."""
        self.early.load_state_dict(state_dict["early"])
        self._seen.load_state_dict(state_dict["seen"])


def _informative_first(trajectories: Sequence[Trajectory]) -> list[int]:
    """The rows by group, the groups with right and wrong answers first."""
    answers: dict[str, set[bool]] = {}
    for trajectory in trajectories:
        answers.setdefault(trajectory.group_id, set()).add(trajectory.is_correct)
    return sorted(range(len(trajectories)), key=lambda row: -len(answers[trajectories[row].group_id]))

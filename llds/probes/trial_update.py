"""An update on trial: a few optimizer steps on some trajectories, whose effect is measured and taken back.

For probes, which ask what an update on one question would do. Every rank can try on its own: nothing here is
collective. Weights, gradients and the run's optimizer are afterwards what they were, bit by bit.

Left out on purpose: the updates of a training (`llds.modules.updates`), parameters in parts (ZeRO-3), which no rank
could step on its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from llds.batches import PolicyBatch
from llds.batches.loss_inputs import with_selection
from llds.modules.gradients import clip_gradients
from llds.modules.objective import Objective
from llds.modules.search_agent import SearchAgentModule

TrialOptimizer = Literal["run", "fresh", "sgd"]
"""``run``: the run's, with its moments; ``fresh``: the same without moments; ``sgd``: plain SGD."""


@dataclass(frozen=True)
class Trial:
    """How an update is tried.

    Attributes:
        objective: The loss.
        optimizer: Which optimizer steps.
        learning_rate: Of each step.
        steps: Optimizer steps, all on the same trajectories.
    """

    objective: Objective
    optimizer: TrialOptimizer
    learning_rate: float
    steps: int


class TrialUpdates:
    """Tries updates on a module's policy.

    Args:
        module: Its weights are copied to main memory at once, and are those that every trial starts from.
        trial: How.
    """

    def __init__(self, module: SearchAgentModule, trial: Trial) -> None:
        self.module = module
        self.trial = trial
        self._trained = [parameter for parameter in module.policy.parameters() if parameter.requires_grad]
        self._weights = [parameter.detach().to("cpu", copy=True) for parameter in self._trained]

    @torch.no_grad()
    def log_probs(self, batch: PolicyBatch) -> Tensor:
        """Log-probabilities of the action tokens under the present weights, ``[B, T]`` fp32 or fp64.

        In the micro-batches of the steps, so that a policy that has not moved gives the same to the bit.
        """
        found: Tensor | None = None
        for rows, micro_batch in self.micro_batches(batch):
            with self.module.forward_context():
                scored = self.module.policy(micro_batch, self.module.temperature).log_probs
            found = scored.new_zeros(batch.input_ids.shape) if found is None else found
            found[rows, : scored.shape[1]] = scored
        assert found is not None  # noqa: S101 (a batch has rows)
        return found

    @contextmanager
    def updated(self, batch: PolicyBatch) -> Iterator[list[float]]:
        """The policy after the update; its weights come back at the end.

        Args:
            batch: Trajectories with advantages and old log-probabilities, all of them one mini-batch.

        Yields:
            The gradient norm before clipping of each step.
        """
        gradients = [parameter.grad for parameter in self._trained]
        try:
            yield self._steps(batch)
        finally:
            with torch.no_grad():
                for parameter, weight, gradient in zip(self._trained, self._weights, gradients, strict=True):
                    parameter.copy_(weight)
                    parameter.grad = gradient

    def _steps(self, batch: PolicyBatch) -> list[float]:
        objective = self.trial.objective
        batch = with_selection(batch, objective.selections)
        optimizer, denominators, norms = self._optimizer(), objective.denominators(batch), []
        for _ in range(self.trial.steps):
            optimizer.zero_grad()
            for _, micro_batch in self.micro_batches(batch):
                with self.module.forward_context():
                    output = self.module.policy(objective.scored(micro_batch), self.module.temperature)
                    micro_batch = replace(micro_batch, entropy=output.entropy)
                    loss = objective.loss(output.log_probs, micro_batch, denominators)
                loss.backward()
            norms.append(float(clip_gradients(self._trained, self.module.optimization.max_grad_norm)))
            optimizer.step()
        return norms

    def _optimizer(self) -> torch.optim.Optimizer:
        """A new optimizer, whose state is its own."""
        rate = self.trial.learning_rate
        if self.trial.optimizer == "sgd":
            return torch.optim.SGD(self._trained, lr=rate)
        of_run = self.module.optimizers(use_pl_optimizer=False)
        assert isinstance(of_run, torch.optim.Optimizer)  # noqa: S101 (the module has one)
        state = deepcopy(of_run.state_dict())  # loading a state shares its tensors
        if self.trial.optimizer == "fresh":
            state["state"] = {}
        kind: Any = type(of_run)
        optimizer: torch.optim.Optimizer = kind(self._trained, lr=rate)
        optimizer.load_state_dict(state)
        for group in optimizer.param_groups:
            group["lr"] = rate
        return optimizer

    def micro_batches(self, batch: PolicyBatch) -> Iterator[tuple[Tensor, PolicyBatch]]:
        """The micro-batches of every forward here, with their row numbers."""
        limits = self.module.optimization.micro_batch_limits
        return batch.micro_batches(limits, packed=self.module.policy.shares_prefixes)

"""The updating half of the search agent: an iteration's trajectories become optimizer steps.

Every rank knows all trajectories and computes its share of each mini-batch's micro-batches. What differs between plain
training, DDP and ZeRO-3 stands here and nowhere else: how a micro-batch runs, when ranks exchange gradients, who clips.

Left out on purpose: what the trajectories are scored with before, and the metrics of an iteration (`search_agent`).
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.optim.lr_scheduler import LRScheduler

from llds.batches import PolicyBatch
from llds.data import PromptDataModule
from llds.metrics import squared_adam_update
from llds.modules.mini_batches import UpdateRecord, mini_batches
from llds.modules.nonfinite import NonFiniteGuard
from llds.modules.objective import Objective
from llds.modules.optimization import Optimization
from llds.modules.policy.policy import Policy, PolicyOutput
from llds.strategies import ZeRO3Strategy, rank, sum_over_ranks, world_size


class UpdateSteps(pl.LightningModule):
    """Makes the optimizer steps of an iteration.

    Attributes:
        policy: What is trained.
        objective: The terms of the loss.
        optimization: Batch sizes and clipping.
        nonfinite: Counts optimizer steps that were skipped.
        iteration: Rollout iterations done.
        seed: Of the order of mini-batches.
    """

    policy: Policy
    objective: Objective
    optimization: Optimization
    nonfinite: NonFiniteGuard
    iteration: int
    seed: int

    @property
    def _prompts_per_iteration(self) -> int:
        return cast(PromptDataModule, self.trainer.datamodule).batch_size  # type: ignore[attr-defined]

    @property
    def _mini_batches_per_iteration(self) -> int:
        return self._prompts_per_iteration // self.optimization.mini_batch_size

    @property
    def score_dtype(self) -> torch.dtype:
        """Data type of log-probabilities: fp32, or fp64 for fp64 weights."""
        is_double = next(self.policy.parameters()).dtype == torch.float64
        return torch.float64 if is_double else torch.float32

    def _update(self, batch: PolicyBatch, answer_weight: float) -> UpdateRecord:
        record = UpdateRecord.of(batch, self.score_dtype)
        for epoch in range(self.optimization.epochs):
            seed = (self.seed, self.iteration, epoch)
            for rows in mini_batches(batch.groups, self._mini_batches_per_iteration, seed):
                mini_batch = batch.rows(rows)
                if not record.has_moved:
                    # The policy is still the old one. Scored in other micro-batches, its log-probs would differ by
                    # rounding, and LLDS, whose gradient does not shrink with the fall, would act on the noise.
                    mini_batch = replace(mini_batch, old_log_probs=None)
                self._step(mini_batch, rows, answer_weight, record)
        return record

    def _step(self, batch: PolicyBatch, rows: Tensor, answer_weight: float, record: UpdateRecord) -> None:
        """One optimizer step on a mini-batch, which holds these rows of the iteration.

        Every rank knows the whole mini-batch and computes its share; what it saw is then everyone's.
        """
        optimizer = cast(LightningOptimizer, self.optimizers())
        self._zero_grad(optimizer)
        denominators = self.objective.denominators(batch)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        seen = UpdateRecord.of(batch, self.score_dtype)
        micro_batches = self._micro_batches(self.policy, batch)
        for number, (micro_rows, micro_batch) in enumerate(micro_batches, start=1):
            with self._micro_step(is_last=number == len(micro_batches)) as forward:
                output = forward(micro_batch)
                if micro_batch.old_log_probs is None:  # before the weights have moved: this is the old policy
                    micro_batch = replace(micro_batch, old_log_probs=output.log_probs.detach())
                share = self.objective.loss(output.log_probs, micro_batch, denominators, answer_weight)
                self.manual_backward(share * self.trainer.world_size)  # ranks average the gradients of their shares
            total += share.detach()
            seen.keep(micro_rows, output)
        seen = UpdateRecord(sum_over_ranks(seen.log_probs), sum_over_ranks(seen.entropy))
        record.keep(rows, PolicyOutput(seen.log_probs, seen.entropy))
        if batch.old_log_probs is None:
            batch = replace(batch, old_log_probs=seen.log_probs)
        taken = self._apply_gradients(optimizer, sum_over_ranks(total))
        signals = {} if taken is None else self.objective.signals(seen.log_probs, batch, denominators, answer_weight)
        record.steps.append({"train/nonfinite_step": float(taken is None), **(taken or {}), **signals})

    @contextmanager
    def _micro_step(self, is_last: bool) -> Iterator[Callable[[PolicyBatch], PolicyOutput]]:
        """The forward and backward of a micro-batch; ranks exchange plain gradients after the last alone."""
        strategy = self.trainer.strategy
        if isinstance(strategy, ZeRO3Strategy):
            strategy.is_last_micro_batch(is_last)
            yield strategy.engine
        elif isinstance(strategy, DDPStrategy) and not is_last:
            with strategy.block_backward_sync():
                yield self
        else:
            yield self

    def _zero_grad(self, optimizer: LightningOptimizer) -> None:
        strategy = self.trainer.strategy
        if isinstance(strategy, ZeRO3Strategy):
            strategy.zero_grad()
        else:
            optimizer.zero_grad()

    def _apply_gradients(self, optimizer: LightningOptimizer, loss: Tensor) -> dict[str, float] | None:
        """Clip and step, unless something is not finite: then every rank skips the step (rule 8) and returns None."""
        strategy = self.trainer.strategy
        if isinstance(strategy, ZeRO3Strategy):  # which clips as it steps, and only then knows the norm
            norm = torch.tensor(0.0 if strategy.has_finite_gradient() else torch.inf)
        else:
            norm = clip_gradients(self.policy.parameters(), self.optimization.max_grad_norm)
        finite = math.isfinite(loss) and math.isfinite(norm)
        if not strategy.reduce_boolean_decision(finite, all=True):
            self._zero_grad(optimizer)
            self.nonfinite.skipped(float(loss), float(norm))
            return None
        rate = float(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cast(LRScheduler, self.lr_schedulers()).step()
        self.nonfinite.taken()
        norm = strategy.gradient_norm if isinstance(strategy, ZeRO3Strategy) else norm
        return {"train/grad_norm": float(norm), "train/learning_rate": rate}

    def _update_norm(self, record: UpdateRecord) -> dict[str, Tensor]:
        """Norm of the last step that was taken; nothing where the optimizer is not Adam."""
        strategy = self.trainer.strategy
        optimizer = cast(LightningOptimizer, self.optimizers()).optimizer
        if isinstance(strategy, ZeRO3Strategy):
            optimizer = strategy.own_optimizer
        rates = [step["train/learning_rate"] for step in record.steps if "train/learning_rate" in step]
        if not rates or not isinstance(optimizer, torch.optim.Adam):
            return {}
        square = squared_adam_update(optimizer, float(rates[-1]))
        if isinstance(strategy, ZeRO3Strategy):
            square = sum_over_ranks(square)  # of the ranks' parts
        return {"train/update_norm": square.sqrt()}

    def _micro_batches(self, policy: Policy, batch: PolicyBatch) -> list[tuple[Tensor, PolicyBatch]]:
        """This rank's."""
        limits = self.optimization.micro_batch_limits
        return list(batch.micro_batches(limits, rank(), world_size(), packed=policy.shares_prefixes))


def scored(batch: PolicyBatch) -> Tensor:
    """The old log-probabilities of a batch that was prepared."""
    return cast(Tensor, batch.old_log_probs)


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale the gradients down to a norm in place, and return what it was.

    Sums in float64, as DeepSpeed does: torch's own float32 norm of a large embedding is wrong in the sixth digit, and
    runs with and without ZeRO-3 would differ by that.

    Args:
        parameters: Those without a gradient are left out.
        max_norm: Infinity does not clip.
    """
    trained = [parameter for parameter in parameters if parameter.grad is not None]
    norms = [vector_norm(parameter.grad, dtype=torch.float64) for parameter in trained if parameter.grad is not None]
    norm = vector_norm(torch.stack(norms)) if norms else torch.zeros((), dtype=torch.float64)
    nn.utils.clip_grads_with_norm_(trained, max_norm, norm)
    return norm

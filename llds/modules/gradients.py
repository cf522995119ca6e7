"""Gradients and optimizer steps under plain training, DDP and ZeRO-3, whose differences stand here and nowhere else.

How a micro-batch runs, when ranks exchange gradients, who clips, who steps. A step whose loss or gradient is not finite
is skipped by all ranks together.

Left out on purpose: what is computed in a step (`llds.modules.updates`).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.optim.lr_scheduler import LRScheduler

from llds.metrics import squared_adam_update
from llds.modules.nonfinite import NonFiniteGuard
from llds.strategies import ZeRO3Strategy, sum_over_ranks


class Gradients:
    """Makes gradients and steps by them.

    Args:
        module: A module with one optimizer and one schedule, which it steps itself; all its parameters are clipped
            together.
        max_norm: Norm to which gradients are clipped; infinity does not clip.
        nonfinite: Counts steps that were skipped.
    """

    def __init__(self, module: pl.LightningModule, max_norm: float, nonfinite: NonFiniteGuard) -> None:
        self._module = module
        self._max_norm = max_norm
        self._nonfinite = nonfinite

    def zero(self) -> None:
        """Forget the gradients."""
        strategy = self._module.trainer.strategy
        if isinstance(strategy, ZeRO3Strategy):
            strategy.zero_grad()
        else:
            self._optimizer.zero_grad()

    @contextmanager
    def of_micro_batch(self, *, is_last: bool) -> Iterator[Callable[[Any], Any]]:
        """Forward and backward of a micro-batch; ranks exchange plain gradients after the last alone.

        Args:
            is_last: Whether a step follows it.

        Yields:
            The forward.
        """
        strategy = self._module.trainer.strategy
        if isinstance(strategy, ZeRO3Strategy):
            strategy.is_last_micro_batch(is_last)
            yield strategy.engine
        elif isinstance(strategy, DDPStrategy) and not is_last:
            with strategy.block_backward_sync():
                yield self._module
        else:
            yield self._module

    def add(self, share: Tensor) -> None:
        """Backward of a micro-batch.

        Args:
            share: Its share of the mini-batch's loss: the shares of all micro-batches and ranks add up to it.
        """
        self._module.manual_backward(share * self._module.trainer.world_size)  # ranks average what they add

    def step(self, loss: Tensor) -> dict[str, float] | None:
        """Clip and step, unless something is not finite: then every rank skips the step (rule 8).

        Args:
            loss: Of the whole mini-batch.

        Returns:
            Metrics of the step; None of one that was skipped.
        """
        strategy = self._module.trainer.strategy
        if isinstance(strategy, ZeRO3Strategy):  # which clips as it steps, and only then knows the norm
            norm = torch.tensor(0.0 if strategy.has_finite_gradient() else torch.inf)
        else:
            norm = clip_gradients(self._module.parameters(), self._max_norm)
        finite = math.isfinite(loss) and math.isfinite(norm)
        if not strategy.reduce_boolean_decision(finite, all=True):
            self.zero()
            self._nonfinite.skipped(float(loss), float(norm))
            return None
        rate = float(self._optimizer.param_groups[0]["lr"])
        self._optimizer.step()
        cast(LRScheduler, self._module.lr_schedulers()).step()
        self._nonfinite.taken()
        norm = strategy.gradient_norm if isinstance(strategy, ZeRO3Strategy) else norm
        return {"train/grad_norm": float(norm), "train/learning_rate": rate}

    def update_norm(self, learning_rates: Sequence[float]) -> dict[str, Tensor]:
        """Norm of what the last step added to the weights; nothing without a step, or where it was not Adam's.

        Args:
            learning_rates: Of the steps that were taken.
        """
        strategy = self._module.trainer.strategy
        optimizer = self._optimizer.optimizer
        if isinstance(strategy, ZeRO3Strategy):
            optimizer = strategy.own_optimizer
        if not learning_rates or not isinstance(optimizer, torch.optim.Adam):
            return {}
        square = squared_adam_update(optimizer, learning_rates[-1])
        if isinstance(strategy, ZeRO3Strategy):
            square = sum_over_ranks(square)  # of the ranks' parts
        return {"train/update_norm": square.sqrt()}

    @property
    def _optimizer(self) -> LightningOptimizer:
        return cast(LightningOptimizer, self._module.optimizers())


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

"""Gradients and optimizer steps under plain training, DDP and ZeRO-3, whose differences stand here and nowhere else.

How a micro-batch runs, when ranks exchange gradients, who clips, who steps. A step whose loss or gradient is not finite
is skipped by all ranks together; one that made weights or optimizer states that are not ends the run.

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
from llds.modules.nonfinite import NonFiniteGuard, all_finite
from llds.strategies import ZeRO3Strategy, local_part, sum_over_ranks


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

        Raises:
            TooManyFailuresError: If it is one too many that was skipped, or if what a step made is not finite.
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
        if not strategy.reduce_boolean_decision(all_finite(value for _, value in self.trained()), all=True):
            self._nonfinite.made(float(loss), float(norm))
        self._nonfinite.taken()
        norm = strategy.gradient_norm if isinstance(strategy, ZeRO3Strategy) else norm
        return {"train/grad_norm": float(norm), "train/learning_rate": rate}

    def trained(self) -> Iterator[tuple[str, Tensor]]:
        """Names and values of what this rank trains: weights, or its parts of them, and the optimizer's states."""
        weights = {name: value for name, value in self._module.named_parameters() if value.requires_grad}
        yield from ((name, local_part(value)) for name, value in weights.items())
        names = {id(value): name for name, value in weights.items()}
        for parameter, states in self._torch_optimizer.state.items():
            of = names.get(id(parameter), "this rank's part of the weights")
            yield from ((f"{kind} of {of}", value) for kind, value in states.items() if isinstance(value, Tensor))

    def update_norm(self, learning_rates: Sequence[float]) -> dict[str, Tensor]:
        """Norm of what the last step added to the weights; nothing without a step, or where it was not Adam's.

        Args:
            learning_rates: Of the steps that were taken.
        """
        optimizer = self._torch_optimizer
        if not learning_rates or not isinstance(optimizer, torch.optim.Adam):
            return {}
        square = squared_adam_update(optimizer, learning_rates[-1])
        if isinstance(self._module.trainer.strategy, ZeRO3Strategy):
            square = sum_over_ranks(square)  # of the ranks' parts
        return {"train/update_norm": square.sqrt()}

    @property
    def _torch_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer that holds this rank's states."""
        strategy = self._module.trainer.strategy
        return (
            strategy.own_optimizer
            if isinstance(strategy, ZeRO3Strategy)
            else cast(torch.optim.Optimizer, self._module.optimizers(use_pl_optimizer=False))
        )

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

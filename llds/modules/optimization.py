"""How the weights move: optimizer, schedule and batch sizes, as one value for configuration files."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from llds.batches.micro_batches import MicroBatchLimits
from llds.errors import ConfigurationError

_AT_LEAST_ONE = ("mini_batch_size", "micro_batch_size", "epochs", "max_nonfinite_steps")


@dataclass(frozen=True)
class Optimization:
    """How the weights move."""

    learning_rate: float = 1e-6
    """Peak learning rate of AdamW."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of AdamW's moments."""
    schedule: Literal["constant_with_warmup", "linear", "cosine"] = "constant_with_warmup"
    """Course of the learning rate after the warm-up."""
    warmup_ratio: float = 0.0
    """Share of all optimizer steps in which the learning rate rises from 0."""
    max_grad_norm: float = 1.0
    """Norm to which gradients are clipped."""
    mini_batch_size: int = 8
    """Prompts per optimizer step."""
    micro_batch_size: int = 16
    """Trajectories per forward and backward; changes memory and speed, not the result."""
    max_tokens_per_micro_batch: int | None = None
    """Tokens per forward and backward, those that trajectories share counted once; null limits trajectories alone."""
    epochs: int = 1
    """Passes over the trajectories of an iteration."""
    max_nonfinite_steps: int = 3
    """Optimizer steps in a row whose loss or gradient is not finite before the run stops; each is skipped."""

    def __post_init__(self) -> None:
        for name in _AT_LEAST_ONE:
            _check(vars(self)[name] >= 1, name, ">= 1", vars(self)[name])
        most = self.max_tokens_per_micro_batch
        _check(most is None or most >= 1, "max_tokens_per_micro_batch", ">= 1 or null", most)
        for name in ("learning_rate", "weight_decay"):
            _check(0 <= vars(self)[name] < math.inf, name, "to be a number >= 0", vars(self)[name])
        _check(all(0 <= beta < 1 for beta in self.betas), "betas", "to be in [0, 1)", self.betas)
        _check(0 <= self.warmup_ratio <= 1, "warmup_ratio", "to be a share in [0, 1]", self.warmup_ratio)
        _check(self.max_grad_norm > 0, "max_grad_norm", "> 0 (.inf does not clip)", self.max_grad_norm)

    @property
    def micro_batch_limits(self) -> MicroBatchLimits:
        """How big a micro-batch may be."""
        return MicroBatchLimits(self.micro_batch_size, self.max_tokens_per_micro_batch)

    def mini_batches(self, prompts: int) -> int:
        """Number of mini-batches of an iteration of so many prompts."""
        return prompts // self.mini_batch_size

    def steps(self, prompts: int) -> int:
        """Optimizer steps of an iteration of so many prompts."""
        return self.epochs * self.mini_batches(prompts)

    def configure(self, parameters: Iterable[nn.Parameter], steps: int) -> dict[str, Any]:
        """AdamW with a schedule that advances with each optimizer step, as Lightning takes them.

        Args:
            parameters: Those that require a gradient are trained.
            steps: Optimizer steps of the whole run.
        """
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        # One pass over memory, where torch's other ways make copies as large as the weights: on a CPU six times faster.
        optimizer = torch.optim.AdamW(
            trained, lr=self.learning_rate, betas=self.betas, weight_decay=self.weight_decay, fused=_can_fuse(trained)
        )
        scheduler = get_scheduler(
            self.schedule,
            optimizer,
            num_warmup_steps=round(self.warmup_ratio * steps),
            num_training_steps=steps,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def course(self, steps: int) -> dict[str, Any]:
        """What decides the steps to come, as plain values for a checkpoint.

        Args:
            steps: Optimizer steps of the whole run.
        """
        names = ("learning_rate", "weight_decay", "betas", "schedule", "warmup_ratio")
        return {name: vars(self)[name] for name in names} | {"betas": list(self.betas), "steps": steps}

    def go_on(
        self, groups: Sequence[dict[str, Any]], scheduler: LambdaLR, before: Mapping[str, Any], steps: int
    ) -> list[str]:
        """Apply these settings to an optimizer that a checkpoint restored with those of then.

        A learning rate that was cut in between stays cut by as much. Where nothing has changed nothing is touched.

        Args:
            groups: The optimizer's parameter groups; changed in place.
            scheduler: Made by `configure`, then restored; changed in place.
            before: What `course` said when the checkpoint was written.
            steps: Optimizer steps of the whole run, as it is now.

        Returns:
            What has changed, such as ``learning_rate 0.0002 -> 0.0001``.
        """
        now = self.course(steps)
        changed = [name for name in now if name in before and now[name] != before[name]]
        if not changed:
            return []
        was = before["learning_rate"]
        scheduler.base_lrs = [
            rate / was * self.learning_rate if was else self.learning_rate for rate in scheduler.base_lrs
        ]
        for group, base, course in zip(groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True):
            group["initial_lr"], group["lr"] = base, base * course(scheduler.last_epoch)
            group["betas"], group["weight_decay"] = tuple(self.betas), self.weight_decay
        scheduler._last_lr = [group["lr"] for group in groups]  # what `get_last_lr` says until the next step
        return [f"{name} {before[name]} -> {now[name]}" for name in changed]


def _can_fuse(parameters: Sequence[nn.Parameter]) -> bool:
    return all(one.device.type in ("cpu", "cuda") and one.is_floating_point() for one in parameters)


def _check(holds: bool, name: str, expected: str, got: object) -> None:
    if not holds:
        raise ConfigurationError(f"Expected `model.optimization.{name}` {expected}, got {got}. Change it.")

"""How the weights move: optimizer, schedule and batch sizes, as one value for configuration files."""

from dataclasses import dataclass
from typing import Literal

from llds.errors import ConfigurationError


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
    epochs: int = 1
    """Passes over the trajectories of an iteration."""
    max_nonfinite_steps: int = 3
    """Optimizer steps in a row whose loss or gradient is not finite before the run stops; each is skipped."""

    def __post_init__(self) -> None:
        if min(self.mini_batch_size, self.micro_batch_size, self.epochs, self.max_nonfinite_steps) < 1:
            raise ConfigurationError(
                "Expected `model.optimization` to have mini_batch_size, micro_batch_size, epochs and "
                f"max_nonfinite_steps >= 1, got {self}."
            )
        if self.learning_rate < 0 or self.max_grad_norm <= 0 or not 0 <= self.warmup_ratio <= 1:
            raise ConfigurationError(
                "Expected `model.optimization` to have learning_rate >= 0, max_grad_norm > 0 and warmup_ratio in "
                f"[0, 1], got {self}."
            )

"""Weights in bfloat16 that are trained as they are: a small step is rounded away.

Two neighbors in bfloat16 are 0.4% apart. A step of AdamW is about the learning rate for each weight, whatever its
gradient: most weights stay where they were when that is less than half of the distance.
"""

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

_ENOUGH = 0.5
_SAMPLE = 2**16
"""Weights of a tensor that are looked at."""


def moving_share(weights: Tensor, step: float) -> float:
    """Share of the weights that a step of this size moves, 0-1.

    Args:
        weights: In their data type.
        step: What is taken off each.
    """
    some = weights.detach().flatten()[:: max(1, weights.numel() // _SAMPLE)]
    return float(((some.float() - step).to(some.dtype) != some).float().mean())


def warn_of_rounding(policy: nn.Module, learning_rate: float, *, has_master: bool) -> None:
    """Warn where most steps would be rounded away, with ways out.

    Args:
        policy: What is trained.
        learning_rate: Of the optimizer.
        has_master: Whether the strategy steps on copies in float32.
    """
    rounded = [one for one in policy.parameters() if one.requires_grad and one.dtype == torch.bfloat16 and one.numel()]
    if has_master or not rounded:
        return
    total = sum(one.numel() for one in rounded)
    share = sum(moving_share(one, learning_rate) * one.numel() for one in rounded) / total
    if share < _ENOUGH:
        rank_zero_warn(
            f"The weights are bfloat16, and a step of `model.optimization.learning_rate` {learning_rate:g} moves "
            f"{share:.2%} of them: the rest of each step is rounded away. Train in float32 with bfloat16 arithmetic "
            "(`model.dtype` float32, `trainer.precision` bf16-mixed), with adapters (`model.lora`), under "
            "llds:trainer/zero3_8gpu, which steps on float32 copies, or at a larger rate."
        )

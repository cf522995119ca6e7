"""What this machine can do at most, measured, and what a policy's passes ask of it.

Two figures make the roofline: a large matrix product, and a copy that no cache holds. Passes are counted in the
floating point operations of their matrix products with weights; attention, norms and losses are left out, so shares are
a little too low, most where trajectories are long and models small.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from llds.modules import Policy

_GPU_SIDE, _CPU_SIDE = 8192, 1024
_GPU_BYTES, _CPU_BYTES = 2**30, 2**27
_TIMES = 3


@dataclass(frozen=True)
class Roofline:
    """What the device can do at most.

    Attributes:
        flops: Floating point operations per second of a large matrix product.
        copied: Bytes per second of a copy, read and written ones alike.
    """

    flops: float
    copied: float

    @classmethod
    def measured(cls, device: torch.device, dtype: torch.dtype) -> "Roofline":
        """Measure it, the best of a few tries: tenths of a second.

        Args:
            device: Where the policy computes.
            dtype: What it computes in.
        """
        is_gpu = device.type == "cuda"
        side, size = (_GPU_SIDE, _GPU_BYTES) if is_gpu else (_CPU_SIDE, _CPU_BYTES)
        square = torch.rand(side, side, device=device).to(dtype)
        product = torch.empty_like(square)
        source = torch.zeros(size, dtype=torch.uint8, device=device)
        target = torch.zeros_like(source)
        product_s = _best(lambda: torch.mm(square, square, out=product), device)
        copy_s = _best(lambda: target.copy_(source), device)
        return cls(2 * side**3 / product_s, 2 * size / copy_s)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was told; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _best(work: Callable[[], Tensor], device: torch.device) -> float:
    seconds = []
    for _ in range(_TIMES + 1):  # the first is a warm-up
        synchronize(device)
        started = time.perf_counter()
        work()
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


@dataclass(frozen=True)
class PolicyCost:
    """What passes through a policy ask of a machine.

    Attributes:
        body: Weights that each token meets once.
        head: Weights that each predicted token meets once.
        trained: Weights that the optimizer moves.
        is_whole: Whether it moves all of them.
        is_recomputed: Whether the backward pass repeats the forward pass of the body.
    """

    body: int
    head: int
    trained: int
    is_whole: bool
    is_recomputed: bool

    @classmethod
    def of(cls, policy: Policy) -> "PolicyCost":
        """Count its weights."""
        model = policy.base_model
        ends = {model.get_input_embeddings().weight, model.get_output_embeddings().weight}
        weights = list(policy.parameters())
        sizes = {weight: weight.numel() or getattr(weight, "ds_numel", 0) for weight in weights}
        return cls(
            body=sum(size for weight, size in sizes.items() if weight not in ends and weight.ndim > 1),
            head=sizes[model.get_output_embeddings().weight],
            trained=sum(size for weight, size in sizes.items() if weight.requires_grad),
            is_whole=not policy.has_adapter,
            is_recomputed=bool(model.is_gradient_checkpointing),
        )

    def forward(self, tokens: float, predictions: float) -> float:
        """Operations of forward passes."""
        return 2.0 * (self.body * tokens + self.head * predictions)

    def backward(self, tokens: float, predictions: float) -> float:
        """Operations of backward passes: by inputs and by weights; the head's tiles are computed again."""
        body = self.body * tokens * (1 + self.is_whole + self.is_recomputed)
        head = self.head * predictions * (3 if self.is_whole else 0)  # a frozen head keeps what backward needs
        return 2.0 * (body + head)

    def optimizer_bytes(self) -> float:
        """Bytes that a step of AdamW must move: reads weight, gradient and two moments, writes all but the gradient."""
        return 7 * 4.0 * self.trained

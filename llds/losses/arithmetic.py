"""At what precision the head's products are taken.

Everything accumulates in fp32 (fp64 for fp64 inputs). Operands in bf16 or fp16 (or under autocast) are multiplied at
that precision, but their products are never rounded to it, so that the log-probs of a bf16 head carry no rounding of
their own. Used by `llds.losses.chunked_head`.

Left out on purpose: the precision of the backbone, which is the trainer's.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Arithmetic:
    """How products are taken.

    Attributes:
        operand: The dtype whose precision the operands have.
        storage: The dtype that operands are held in; wider than `operand` where the device cannot multiply `operand`
            into `accumulator`.
        accumulator: The dtype of logits and sums.
    """

    operand: torch.dtype
    storage: torch.dtype
    accumulator: torch.dtype

    @classmethod
    def of(cls, hidden: Tensor, weight: Tensor) -> "Arithmetic":
        """Choose from the inputs' dtypes, or autocast's where that is on."""
        device = hidden.device.type
        operand = torch.promote_types(hidden.dtype, weight.dtype)
        if operand != torch.float64 and torch.is_autocast_enabled(device):
            operand = torch.get_autocast_dtype(device)
        accumulator = torch.float64 if operand == torch.float64 else torch.float32
        return cls(operand, operand if device == "cuda" else accumulator, accumulator)

    def prepare(self, values: Tensor) -> Tensor:
        """Round to the operands' precision, in the dtype that products take."""
        return values.to(self.operand).to(self.storage)

    def product(self, out: Tensor, left: Tensor, right: Tensor, *, accumulate: bool = False) -> None:
        """``out = left @ right`` (or ``+=``), summed in the accumulator's dtype."""
        left, right = left.to(self.storage), right.to(self.storage)
        if self.storage == self.accumulator:
            out.addmm_(left, right, beta=int(accumulate))
        elif accumulate:
            out += torch.mm(left, right, out_dtype=self.accumulator)
        else:
            out.copy_(torch.mm(left, right, out_dtype=self.accumulator))

    @contextlib.contextmanager
    def scope(self, device: torch.device) -> Iterator[None]:
        """Switch autocast off; on a CPU, let oneDNN take bf16 products of fp32 tensors (fp32 sums, fp32 result).

        The operands are bf16 values already, so the logits lose nothing, and processors with bf16 units are three
        times as fast. The switch belongs to the process, not to the thread, hence it is set for as short as possible.
        """
        backend: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
        before = backend.fp32_precision
        is_switched = device.type == "cpu" and self.operand == torch.bfloat16
        with torch.autocast(device.type, enabled=False):
            try:
                if is_switched:
                    backend.fp32_precision = "bf16"
                yield
            finally:
                if is_switched:
                    backend.fp32_precision = before

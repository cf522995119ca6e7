"""The guard against what is not finite: counts skipped optimizer steps, looks at what the others made, ends bad runs.

Left out on purpose: skipping itself, which all ranks do together (`llds.modules.search_agent`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn.utils import get_total_norm

from llds.errors import TooManyFailuresError


@dataclass
class NonFiniteGuard:
    """Counts optimizer steps that were skipped.

    Attributes:
        limit: Skipped steps in a row that end the run.
        total: Skipped steps of the whole run.
        in_a_row: Skipped steps since the last that was taken.
    """

    limit: int
    total: int = 0
    in_a_row: int = 0

    def taken(self) -> None:
        """Note a step."""
        self.in_a_row = 0

    def skipped(self, loss: float, grad_norm: float) -> None:
        """Note a skipped step.

        Raises:
            TooManyFailuresError: If it is one too many in a row.
        """
        self.total += 1
        self.in_a_row += 1
        if self.in_a_row >= self.limit:
            raise TooManyFailuresError(
                f"Expected finite losses and gradients, got {self.in_a_row} optimizer steps in a row "
                f"(`model.optimization.max_nonfinite_steps`) that had none, the last with loss {loss:g} and gradient "
                f"norm {grad_norm:g}. All were skipped. Resume from the last checkpoint (`--ckpt_path last`) with a "
                "lower `model.optimization.learning_rate`."
            )

    def tell(self, skipped: int, steps: int, iteration: int) -> None:
        """Warn of an iteration that skipped steps, whatever a monitor says of it later."""
        if skipped:
            rank_zero_warn(
                f"{skipped} of {steps} optimizer steps of iteration {iteration} were skipped: loss or gradient was not "
                f"finite. {self.limit} in a row end the run (`model.optimization.max_nonfinite_steps`); a lower "
                "`learning_rate` may help."
            )

    def made(self, loss: float, grad_norm: float) -> None:
        """End a run whose step, of a finite loss and gradient, made weights or optimizer states that are not.

        Raises:
            TooManyFailuresError: Always: such a step cannot be taken back.
        """
        raise TooManyFailuresError(
            f"Expected finite weights and optimizer states after a step with loss {loss:g} and gradient norm "
            f"{grad_norm:g}, got NaN or infinity. They are not saved: go on from the last checkpoint (`--ckpt_path "
            "last`) with a lower `model.optimization.learning_rate` or `max_grad_norm`."
        )

    def state_dict(self) -> dict[str, int]:
        """The counts."""
        return {"total": self.total, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Restore the counts."""
        self.total, self.in_a_row = state["total"], state["in_a_row"]


def all_finite(values: Iterable[Tensor]) -> bool:
    """Whether tensors hold neither NaN nor infinity, in one pass over their memory and no copy of it."""
    numbers = [value for value in values if value.is_floating_point() and value.numel()]
    return bool(torch.isfinite(get_total_norm(numbers, norm_type=torch.inf)))

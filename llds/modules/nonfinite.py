"""The guard against losses and gradients that are not finite: it counts skipped optimizer steps and ends bad runs.

Left out on purpose: skipping itself, which all ranks do together (`llds.modules.search_agent`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

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

    def state_dict(self) -> dict[str, int]:
        """The counts."""
        return {"total": self.total, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Restore the counts."""
        self.total, self.in_a_row = state["total"], state["in_a_row"]

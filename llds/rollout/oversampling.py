"""Over-sampling: further prompts are drawn in place of those whose group has no signal.

DAPO's dynamic sampling (arXiv 2503.14476 v2, section 3.2). A group whose rewards are all equal has advantage 0
throughout, so an iteration with many of them learns from few. **This is biased** towards prompts of middling
difficulty; and LLDS preserves A >= 0, so what becomes of the groups without a signal is a choice of its own.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from llds.errors import ConfigurationError
from llds.metrics import GroupsBySignal
from llds.types import Trajectory

WithoutSignal = Literal["drop", "keep_correct", "keep"]


@dataclass(frozen=True)
class Oversampling:
    """How far an iteration goes for groups with a signal, and what becomes of those without."""

    max_factor: float = 3.0
    """Most prompts of an iteration, as a multiple of `data.batch_size`; above 1."""
    without_signal: WithoutSignal = "drop"
    """Groups whose rewards are all equal: they leave the loss (``drop``, as in DAPO), those whose answers are all right
    stay for LLDS to preserve (``keep_correct``), or all stay (``keep``)."""

    def __post_init__(self) -> None:
        if not 1 < self.max_factor < math.inf or self.without_signal not in get_args(WithoutSignal):
            raise ConfigurationError(
                "Expected `rollout.oversampling` to have max_factor > 1 and without_signal among "
                f"{', '.join(get_args(WithoutSignal))}, got {self.max_factor:g} and {self.without_signal!r}."
            )

    def most(self, wanted: int) -> int:
        """Most prompts of an iteration.

        Args:
            wanted: Groups with a signal that it wants, which is `data.batch_size`.
        """
        return math.floor(self.max_factor * wanted + 1e-9)

    def next_round(self, wanted: int, drawn: int, found: int) -> int:
        """Prompts of the next round; 0 where there is none.

        As many as should hold the groups that are missing, if the share of groups with a signal stays what it was; all
        that may still be drawn where there was none.

        Args:
            wanted: Groups with a signal that the iteration wants.
            drawn: Prompts that it had so far.
            found: Groups with a signal among them.
        """
        if found >= wanted:
            return 0
        left = self.most(wanted) - drawn
        return min(math.ceil((wanted - found) * drawn / found), left) if found else left

    def select(self, groups: GroupsBySignal, wanted: int) -> list[Trajectory]:
        """What is trained on, in the order in which it was drawn.

        Args:
            groups: All of the iteration.
            wanted: Most groups with a signal; those drawn last are left out.
        """
        chosen = groups.with_signal[:wanted]
        if self.without_signal != "drop":
            chosen = chosen + groups.all_correct
        if self.without_signal == "keep":
            chosen = chosen + groups.all_wrong
        return sorted((trajectory for group in chosen for trajectory in group), key=lambda one: one.index)

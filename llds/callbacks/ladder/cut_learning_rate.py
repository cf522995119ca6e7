"""The rung that cuts the learning rate."""

from typing import Any, cast

from lightning.pytorch.core.optimizer import LightningOptimizer
from torch.optim.lr_scheduler import LRScheduler

from llds.callbacks.ladder.rung import Moment, Rung
from llds.callbacks.ladder.when import When
from llds.errors import ConfigurationError
from llds.modules import SearchAgentModule


class CutLearningRate(Rung):
    """Cuts the learning rate, for good: what the schedule says is multiplied by a factor from now on.

    The schedule's course and length stay as they are. A roll-back does not take the cut back.

    Args:
        factor: It is multiplied by this.
        floor: Share of the configured learning rate under which it is not cut.
        when: When it acts.

    Raises:
        ConfigurationError: If a value is out of its range.
    """

    def __init__(self, factor: float = 0.5, floor: float = 0.1, when: When = When()) -> None:
        super().__init__(when)
        if not 0 < factor < 1 or not 0 <= floor < 1:
            raise ConfigurationError(
                "Expected `CutLearningRate` in `collapse.ladder` to have factor in (0, 1) and floor in [0, 1), got "
                f"{factor} and {floor}."
            )
        self.factor = factor
        self.floor = floor
        self._share = 1.0

    def act(self, moment: Moment) -> str | None:
        """Cut it, unless it is at its floor."""
        share = max(self.floor, self._share * self.factor)
        if share >= self._share:
            return None
        rate = _scale(moment.module, share / self._share)
        self._share = share
        return f"cut the learning rate to {rate:.3g}, {share:.3g} of what is configured"

    def state_dict(self) -> dict[str, Any]:
        """What is left of the learning rate; the rate itself is in the states of optimizer and schedule."""
        return {"share": self._share}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._share = state["share"]


def _scale(module: SearchAgentModule, factor: float) -> float:
    """Scale the learning rate of now and what the schedule computes the later ones from; return that of now."""
    scheduler = cast(LRScheduler, module.lr_schedulers())
    scheduler.base_lrs = [rate * factor for rate in scheduler.base_lrs]
    groups = cast(LightningOptimizer, module.optimizers()).param_groups
    for group in groups:
        group["lr"] *= factor
        group["initial_lr"] *= factor
    scheduler._last_lr = [group["lr"] for group in groups]  # what `get_last_lr` says until the next step
    return float(groups[0]["lr"])

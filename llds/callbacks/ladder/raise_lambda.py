"""The rung that raises the weight of the LLDS penalty."""

from llds.callbacks.ladder.rung import Moment, Rung
from llds.callbacks.ladder.when import When
from llds.errors import ConfigurationError


class RaiseLambda(Rung):
    """Raises the coefficient of the LLDS penalty, from the next iteration on and for good.

    Where the run has none, or one with coefficient 0, it is switched on, with the gate and the other settings that are
    configured; with the defaults of `LLDSPenalty` where ``model.llds_penalty`` is null. A roll-back does not take it
    back.

    Args:
        factor: It is multiplied by this.
        start: What it becomes where it was 0.
        cap: Highest value.
        when: When it acts.

    Raises:
        ConfigurationError: If a value is out of its range.
    """

    def __init__(self, factor: float = 2.0, start: float = 0.05, cap: float = 0.4, when: When = When()) -> None:
        super().__init__(when)
        if factor <= 1 or not 0 < start <= cap:
            raise ConfigurationError(
                "Expected `RaiseLambda` in `collapse.ladder` to have factor > 1 and 0 < start <= cap, got "
                f"{factor}, {start} and {cap}."
            )
        self.factor = factor
        self.start = start
        self.cap = cap

    def act(self, moment: Moment) -> str | None:
        """Raise it, unless it is at its cap."""
        penalty = moment.module.objective.active_llds
        before = penalty.coefficient if penalty else 0.0
        after = min(self.cap, before * self.factor) if before else self.start
        if after <= before:
            return None
        moment.module.set_lambda(after)
        return f"raised lambda from {before:g} to {after:g}" if before else f"switched LLDS on with lambda {after:g}"

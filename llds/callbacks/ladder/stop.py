"""The rung that ends the run."""

from llds.callbacks.ladder.rung import Moment, Rung
from llds.callbacks.ladder.when import When


class Stop(Rung):
    """Stops the run after the iteration, with a checkpoint (`IterationCheckpoint` saves when a run stops).

    `llds fit` then says why and has exit status 3. ``--ckpt_path last`` goes on in spite of it; the rung speaks again
    only of new trouble.

    Args:
        when: When it acts; by default when an alarm has lasted 20 iterations.
    """

    def __init__(self, when: When = When(after=20)) -> None:
        super().__init__(when)

    def act(self, moment: Moment) -> str:
        """Ask for the end."""
        moment.stops = True
        return "stops here"

"""The rung that keeps the run's state as evidence."""

from lightning.pytorch.utilities import rank_zero_warn

from llds.callbacks.ladder.rung import Moment, Rung
from llds.callbacks.ladder.when import When
from llds.strategies import save_training_state

NAME = "checkpoint.ckpt"


class SaveCheckpoint(Rung):
    """Keeps the state of the moment in the incident's folder, as ``checkpoint.ckpt``.

    It is not one of the run's own checkpoints: it is never removed, and ``--ckpt_path last`` passes it over; a run can
    be started from it by its path. Rungs below it in the list have not acted yet in what it keeps.

    Args:
        when: When it acts.
    """

    def __init__(self, when: When = When(max_count=2)) -> None:
        super().__init__(when)

    def act(self, moment: Moment) -> str | None:
        """Save, where there is a folder."""
        if moment.scratch is None:
            return None
        if found := save_training_state(moment.trainer, moment.scratch / NAME):
            rank_zero_warn(f"The state of the moment is not kept: {found}. The run goes on.")
            return None
        return "kept the state of the moment"

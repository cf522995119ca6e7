"""Rungs that say one line."""

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from llds.callbacks.ladder.rung import Incident, Moment, Rung
from llds.callbacks.ladder.when import When


class Warn(Rung):
    """Says one line, as a warning: what is seen, why, what was done and what to do.

    Args:
        when: When it speaks; by default once when a warning begins and once when an alarm does.
    """

    def __init__(self, when: When = When(level="warning")) -> None:
        super().__init__(when)

    def act(self, moment: Moment) -> str:
        """Nothing: it speaks when all have acted."""
        return ""

    def announce(self, incident: Incident) -> None:
        """Speak."""
        rank_zero_warn(incident.line)


class Log(Warn):
    """Says the same line as `Warn`, as an information.

    Args:
        when: When it speaks; by default once when a warning begins and once when an alarm does.
    """

    def announce(self, incident: Incident) -> None:
        """Speak."""
        rank_zero_info(incident.line)

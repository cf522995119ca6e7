"""The ladder: which rungs act at an iteration. Pure bookkeeping; the acting is the rungs'."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from llds.callbacks.ladder.rung import Rung
from llds.callbacks.ladder.when import Record
from llds.monitor import Diagnosis


class Ladder:
    """A list of rungs, lowest first. Each acts by its own `When`; those of one iteration act in the list's order.

    Args:
        rungs: The rungs.

    Attributes:
        rungs: The rungs.
        records: What each has seen and done.
    """

    def __init__(self, rungs: Sequence[Rung]) -> None:
        self.rungs = list(rungs)
        self.records = [Record() for _ in self.rungs]

    def due(self, diagnosis: Diagnosis, *, before_update: bool = False) -> list[int]:
        """Numbers of the rungs that act at an iteration; ask once per iteration.

        Args:
            diagnosis: Of the iteration.
            before_update: Whether it is that of the rollout alone.
        """
        return [
            number
            for number, (rung, record) in enumerate(self)
            if rung.before_update == before_update and record.is_due(rung.when, diagnosis)
        ]

    def forget_trouble(self) -> None:
        """The run went back: trouble that comes again is new trouble. Counts and cooldowns stay."""
        for record in self.records:
            record.since = None

    def __iter__(self) -> Iterator[tuple[Rung, Record]]:
        """Rungs with their records."""
        return zip(self.rungs, self.records, strict=True)

    def state_dict(self) -> list[dict[str, Any]]:
        """Of each rung: its class, record and own state."""
        return [
            {"rung": type(rung).__name__, "record": asdict(record), "own": rung.state_dict()} for rung, record in self
        ]

    def load_state_dict(self, state: Sequence[dict[str, Any]]) -> None:
        """Go on where the ladder that gave this state was; rungs that were added since begin anew.

        Of rungs that were moved or removed in the configuration, each takes the first unused record of its class.
        """
        unused = list(state)
        for number, rung in enumerate(self.rungs):
            found = next((one for one in unused if one["rung"] == type(rung).__name__), None)
            if found is not None:
                unused.remove(found)
                self.records[number] = Record.restore(found["record"])
                rung.load_state_dict(found["own"])

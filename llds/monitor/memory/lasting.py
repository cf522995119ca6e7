"""A condition with hysteresis: it ends only after some rows without it."""

from dataclasses import dataclass


@dataclass
class Lasting:
    """A condition that has begun, or not. Positions count rows, from 0.

    Attributes:
        position: At which it began; -1 while it does not hold.
        since: The iteration of that position.
        seen: Position at which it was last seen.
        strength: Highest so far.
        signal: That shows it.
        words: At the highest strength.
    """

    position: int = -1
    since: int = -1
    seen: int = -1
    strength: float = 0.0
    signal: str = ""
    words: str = ""

    @property
    def holds(self) -> bool:
        """Whether it has started and not ended."""
        return self.position >= 0

    def start(self, position: int, since: int) -> None:
        """Begin at a position, for something that was so since another."""
        self.position, self.since, self.strength = position, since, 0.0

    def end(self) -> None:
        """Hold no more."""
        self.position, self.since = -1, -1

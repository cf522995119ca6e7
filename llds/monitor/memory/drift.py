"""Slow drifts: a one-sided CUSUM of a likelihood below the best it had.

The paper's phase II lasts for a hundred iterations with a fall per iteration that no look at a single value shows; a
CUSUM adds the small shortfalls up. Shortfalls are counted in units of the signal's own noise, less half a unit of
slack, which noise alone does not sustain (E. S. Page, "Continuous inspection schemes", 1954).
"""

from dataclasses import dataclass

from llds.monitor import signals as s
from llds.monitor.memory.row import Tracks
from llds.monitor.memory.track import Track

LIKELIHOODS = (s.PROBE_LIKELIHOOD, s.DISPLACEMENT_CORRECT, s.LIKELIHOOD_CORRECT)
"""Signals of likelihood, the most telling first. The likelihood of sampled correct responses flatters: as the policy
narrows, what it still gets right is what it finds likely."""
SLACK = 0.5
LIMIT = 8.0


@dataclass
class Drift:
    """The CUSUM of one run.

    Attributes:
        signal: The signal that is followed; the first of `LIKELIHOODS` that the table has, else entropy.
        total: Shortfalls so far, in units of noise.
        idle: Rows since the likelihood was at its best.
    """

    signal: str = ""
    total: float = 0.0
    idle: int = 0

    @property
    def is_decay(self) -> bool:
        """Whether likelihood decays steadily."""
        return self.total > LIMIT

    def update(self, position: int, tracks: Tracks) -> None:
        """Take in the row at a position."""
        present = [name for name in (*LIKELIHOODS, s.ENTROPY) if name in tracks and tracks[name].count >= 3]
        if not present:
            return
        if not self.signal or (present[0] != self.signal and self.total <= 0):
            self.signal, self.total = present[0], 0.0
        track = tracks[self.signal]
        if track.seen_at != position or track.count < 2 * len(track.baseline):
            return
        best = track.fast.lowest if self.signal == s.ENTROPY else track.fast.highest
        self.idle = 0 if track.fast.value == best else self.idle + 1
        noise = max(track.noise, 1e-3 * abs(track.center), 1e-9)
        self.total = min(2 * LIMIT, max(0.0, self.total + _shortfall(self.signal, track) / noise - SLACK))

    def words(self, tracks: Tracks) -> str:
        """What is seen."""
        track = tracks[self.signal]
        if self.signal == s.ENTROPY:
            return "entropy drifts up, which means that likelihood goes down"
        if self.signal == s.DISPLACEMENT_CORRECT:
            return f"correct responses lose likelihood in the updates, {-track.fast.value:.2g} nats per token of late"
        what = "a fixed set of correct trajectories" if self.signal == s.PROBE_LIKELIHOOD else "correct responses"
        best = track.fast.value if track.fast.highest is None else track.fast.highest
        return f"the likelihood of {what} fell from {best:.3f} to {track.fast.value:.3f} nats per token"


def _shortfall(signal: str, track: Track) -> float:
    """How much worse the newest value is than it should be."""
    if signal == s.DISPLACEMENT_CORRECT:
        return -track.last  # definition 4.1: a change below 0 is displacement
    if signal == s.ENTROPY:
        return track.last - (track.center if track.slow.lowest is None else track.slow.lowest)
    return (track.last if track.slow.highest is None else track.slow.highest) - track.last

"""A detector that says what a test wants, in place of `CollapseMonitor.detector`."""

from collections.abc import Mapping

from llds.monitor import Cause, CollapseDetector, Diagnosis, Level


class ScriptedDetector(CollapseDetector):
    """Keeps the real memory, which a checkpoint saves and a roll-back restores, and says what a script says.

    Args:
        levels: By iteration; others are "none".
        cause: Of all trouble.
    """

    def __init__(self, levels: Mapping[int, Level], cause: Cause = "lld_spiral") -> None:
        super().__init__()
        self.levels = levels
        self.cause: Cause = cause

    def update(self, iteration: int, row: Mapping[str, float]) -> Diagnosis:
        """Go on with the real memory, and say what the script says."""
        super().update(iteration, row)
        level = self.levels.get(iteration, "none")
        phase, since = ("acceleration", iteration) if level != "none" else ("healthy", None)
        self.last = Diagnosis(
            iteration, phase, level, since=since, cause=None if since is None else self.cause, advice="Mend it."
        )
        return self.last

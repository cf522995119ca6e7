"""What becomes of trajectories that failed: they leave their group, and too many of them stop the run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from llds.errors import ConfigurationError, TooManyFailuresError
from llds.metrics import by_group
from llds.types import Trajectory

OnFailure = Literal["drop_trajectory", "drop_group"]


@dataclass(frozen=True)
class FailurePolicy:
    """The policy for failed trajectories.

    Attributes:
        on_failure: Whether the others of the group stay, or all go; a group of one that remains goes too.
        max_failed: Largest share of failed trajectories in an iteration, 0-1, without stragglers that were given up.

    Raises:
        ConfigurationError: If the share is out of its range.
    """

    on_failure: OnFailure
    max_failed: float

    def __post_init__(self) -> None:
        if not 0 <= self.max_failed <= 1:
            raise ConfigurationError(f"Expected `rollout.max_failed` to be a share in [0, 1], got {self.max_failed}.")

    def check(self, trajectories: Sequence[Trajectory]) -> None:
        """Stop the run where too many failed.

        Args:
            trajectories: All of the iteration.

        Raises:
            TooManyFailuresError: With the first failure.
        """
        failed = [one for one in trajectories if one.status == "failed" and one.failed_by != "time"]
        if len(failed) > self.max_failed * len(trajectories):
            raise TooManyFailuresError(
                f"Expected at most a share of {self.max_failed:g} failed trajectories per iteration "
                f"(`rollout.max_failed`), got {len(failed)} of {len(trajectories)}; the first: {failed[0].failure}. "
                "Mend the cause; with `--ckpt_path last` the run then repeats this iteration, or begins anew where it "
                "is the first."
            )

    def survivors(self, trajectories: Sequence[Trajectory]) -> list[Trajectory]:
        """Those that can be trained on, in order."""
        kept: list[Trajectory] = []
        for group in by_group(trajectories).values():
            alive = [trajectory for trajectory in group if trajectory.status != "failed"]
            if len(alive) == len(group) or (self.on_failure == "drop_trajectory" and len(alive) >= 2):
                kept += alive
        return kept

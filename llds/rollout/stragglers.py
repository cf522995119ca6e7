"""Early stop of a collection's stragglers: once most trajectories are done, the others get little more time.

What is abandoned is marked, left out of the loss like a failed trajectory, and counted. **This is biased**: long
trajectories are abandoned more often than short ones, so the policy is trained on shorter ones than it samples.
"""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass

from llds.errors import ConfigurationError
from llds.types import Trajectory


@dataclass(frozen=True)
class Stragglers:
    """When the rest of a collection is abandoned."""

    done_share: float = 0.9
    """Share of the trajectories that must be done first, 0-1."""
    time_factor: float = 1.5
    """Times the time that those took, after which the rest is abandoned; at least 1."""

    def __post_init__(self) -> None:
        if not 0 < self.done_share < 1 or self.time_factor < 1:
            raise ConfigurationError(
                "Expected `rollout.stragglers` to have done_share between 0 and 1 and time_factor >= 1, "
                f"got {self.done_share:g} and {self.time_factor:g}."
            )


async def abandon_stragglers(
    tasks: Sequence["asyncio.Task[None]"], trajectories: Sequence[Trajectory], stragglers: Stragglers
) -> None:
    """Wait for most episodes, then a little longer; cancel the others and mark their trajectories.

    Args:
        tasks: The episodes; whoever made them waits for their end.
        trajectories: What each fills.
        stragglers: How long.
    """
    loop = asyncio.get_running_loop()
    started, pending = loop.time(), set(tasks)
    while len(tasks) - len(pending) < math.ceil(stragglers.done_share * len(tasks)):
        _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    if pending:
        _, pending = await asyncio.wait(pending, timeout=(loop.time() - started) * (stragglers.time_factor - 1))
    for task, trajectory in zip(tasks, trajectories, strict=True):
        if task in pending:
            task.cancel()
            trajectory.status, trajectory.failed_by = "failed", "time"
            trajectory.failure = "abandoned as a straggler (`rollout.stragglers`)"

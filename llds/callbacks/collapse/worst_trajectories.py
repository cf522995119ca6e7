"""The trajectories to look at first when a run is in trouble."""

from collections.abc import Mapping, Sequence

from llds.callbacks.trajectory_log.file import TrajectoryUpdate
from llds.types import Trajectory


def worst_trajectories(
    trajectories: Sequence[Trajectory], updates: Mapping[int, TrajectoryUpdate], count: int
) -> list[Trajectory]:
    """The worst of an iteration, worst first.

    First the correct ones whose likelihood the updates lowered, by the mean change per action token: likelihood
    displacement itself. Then those with the lowest reward, of one reward the ones whose likelihood rose most. Failed
    ones, which were not trained on, come last.

    Args:
        trajectories: All of the iteration.
        updates: By the identity (``id``) of the trajectory, for those that were trained on.
        count: How many.
    """
    changes = {key: _mean(update.log_prob_changes or ()) for key, update in updates.items()}

    def badness(trajectory: Trajectory) -> tuple[int, float, float]:
        change = changes.get(id(trajectory), 0.0)
        if trajectory.status == "failed":
            return 2, 0.0, 0.0
        if trajectory.is_correct and change < 0:
            return 0, change, 0.0
        return 1, trajectory.reward, -change

    return sorted(trajectories, key=badness)[:count]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0

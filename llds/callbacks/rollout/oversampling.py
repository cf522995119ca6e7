"""Over-sampling in a training: further prompts are rolled out until enough groups have a signal, and some are chosen.

Every rank knows the rewards of all trajectories, so all draw the same prompts in the same number of rollouts.

Left out on purpose: how far it goes and which groups stay (`llds.rollout.oversampling`).
"""

from collections.abc import Callable, Sequence

from lightning.pytorch.utilities import rank_zero_info

from llds.batches import RolloutBatch
from llds.metrics import GroupsBySignal, by_signal, oversampling_metrics
from llds.rollout import FailurePolicy, Oversampling, Rollout
from llds.types import Prompt, Trajectory


class Oversampler:
    """Goes on drawing prompts in an iteration, and chooses what is trained on.

    Args:
        oversampling: How far it goes.
        failures: Which trajectories count.
    """

    def __init__(self, oversampling: Oversampling, failures: FailurePolicy) -> None:
        self._oversampling = oversampling
        self._failures = failures
        self._has_told = False

    def roll_out_further(
        self,
        batch: RolloutBatch,
        first: Rollout,
        draw: Callable[[int], list[Prompt]],
        roll_out: Callable[[list[Prompt], int], Rollout],
    ) -> list[Rollout]:
        """Roll out further prompts until as many groups have a signal as there are prompts, or the bound is met.

        Args:
            batch: Of the iteration; gets the further prompts, and the seconds of their rollouts.
            first: The rollout of its prompts.
            draw: Draws so many prompts.
            roll_out: Rolls out prompts, given the number of prompts that the iteration had before them; collective.

        Returns:
            The further rollouts.

        Raises:
            TooManyFailuresError: As soon as too many of the iteration's trajectories failed.
        """
        wanted, rollouts = len(batch.prompts), [first]
        while (found := self._found(rollouts)) < wanted:
            count = self._oversampling.next_round(wanted, len(batch.prompts), found)
            if count == 0:
                self._tell(wanted, len(batch.prompts), found)
                break
            further = draw(count)
            rollouts.append(roll_out(further, len(batch.prompts)))
            batch.prompts = [*batch.prompts, *further]
        batch.timings["further_sampling"] = sum(one.seconds for one in rollouts[1:])
        return rollouts[1:]

    def choose(self, rollouts: Sequence[Rollout], wanted: int) -> tuple[list[Trajectory], dict[str, float]]:
        """What of an iteration is trained on, and the signals of the choice.

        Args:
            rollouts: All of the iteration.
            wanted: Groups with a signal that it wanted.
        """
        groups = self._groups(rollouts)
        trained = self._oversampling.select(groups, wanted)
        return trained, oversampling_metrics(groups, [one.trajectories for one in rollouts], trained)

    def _found(self, rollouts: Sequence[Rollout]) -> int:
        self._failures.check(_trajectories(rollouts))
        return len(self._groups(rollouts).with_signal)

    def _groups(self, rollouts: Sequence[Rollout]) -> GroupsBySignal:
        return by_signal(self._failures.survivors(_trajectories(rollouts)))

    def _tell(self, wanted: int, drawn: int, found: int) -> None:
        """Say once in a run that the bound was met; the signals say how often."""
        if not self._has_told:
            rank_zero_info(
                f"`rollout.oversampling`: {found} of the {wanted} groups with a signal that an iteration wants, after "
                f"{drawn} prompts, which is its bound (max_factor {self._oversampling.max_factor:g}): it goes on with "
                "them. Said once in a run; rollout/groups_with_signal shows every iteration."
            )
            self._has_told = True


def _trajectories(rollouts: Sequence[Rollout]) -> list[Trajectory]:
    return [trajectory for rollout in rollouts for trajectory in rollout.trajectories]

"""The rounds of an iteration's rollout: that of its batch, then those of further prompts until enough have a signal.

Every rank knows the rewards of all trajectories, so all draw the same prompts in the same number of rounds.

Left out on purpose: how far it goes and which groups stay (`llds.rollout.oversampling`).
"""

from collections.abc import Callable, Sequence

from lightning.pytorch.utilities import rank_zero_info

from llds.metrics import GroupsBySignal, by_signal, oversampling_metrics
from llds.rollout import FailurePolicy, Oversampling, Rollout
from llds.types import Prompt, Trajectory


class Rounds:
    """Over-samples: goes on drawing prompts in an iteration, and chooses what is trained on.

    Args:
        oversampling: How far it goes.
        failures: Which trajectories count.
    """

    def __init__(self, oversampling: Oversampling, failures: FailurePolicy) -> None:
        self._oversampling = oversampling
        self._failures = failures
        self._has_told = False

    def further(
        self,
        prompts: Sequence[Prompt],
        first: Rollout,
        draw: Callable[[int], list[Prompt]],
        roll_out: Callable[[list[Prompt], int], Rollout],
    ) -> tuple[list[Prompt], list[Rollout]]:
        """Roll out further prompts until as many groups have a signal as there are prompts, or the bound is met.

        Args:
            prompts: Of the iteration's batch.
            first: Their rollout.
            draw: Draws so many prompts.
            roll_out: Rolls out prompts, given the number of prompts that the iteration had before them; collective.

        Returns:
            The further prompts and their rollouts, a rollout for each round.

        Raises:
            TooManyFailuresError: As soon as too many of the iteration's trajectories failed.
        """
        wanted, drawn, rounds = len(prompts), list(prompts), [first]
        while (found := self._found(rounds)) < wanted:
            count = self._oversampling.next_round(wanted, len(drawn), found)
            if count == 0:
                self._tell(wanted, len(drawn), found)
                break
            further = draw(count)
            rounds.append(roll_out(further, len(drawn)))
            drawn += further
        return drawn[wanted:], rounds[1:]

    def choose(self, rounds: Sequence[Rollout], wanted: int) -> tuple[list[Trajectory], dict[str, float]]:
        """What of an iteration is trained on, and the signals of the choice.

        Args:
            rounds: All of the iteration.
            wanted: Groups with a signal that it wanted.
        """
        groups = self._groups(rounds)
        trained = self._oversampling.select(groups, wanted)
        return trained, oversampling_metrics(groups, [one.trajectories for one in rounds], trained)

    def _found(self, rounds: Sequence[Rollout]) -> int:
        self._failures.check([one for rollout in rounds for one in rollout.trajectories])
        return len(self._groups(rounds).with_signal)

    def _groups(self, rounds: Sequence[Rollout]) -> GroupsBySignal:
        return by_signal(self._failures.survivors([one for rollout in rounds for one in rollout.trajectories]))

    def _tell(self, wanted: int, drawn: int, found: int) -> None:
        """Say once in a run that the bound was met; the signals say how often."""
        if not self._has_told:
            rank_zero_info(
                f"`rollout.oversampling`: {found} of the {wanted} groups with a signal that an iteration wants, after "
                f"{drawn} prompts, which is its bound (max_factor {self._oversampling.max_factor:g}): it goes on with "
                "them. Said once in a run; rollout/groups_with_signal shows every iteration."
            )
            self._has_told = True

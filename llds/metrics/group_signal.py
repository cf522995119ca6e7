"""Which groups of an iteration have a signal: rewards that differ, without which every advantage of the group is 0."""

from collections.abc import Sequence
from dataclasses import dataclass

from llds.metrics.rollout import by_group
from llds.types import Trajectory


@dataclass(frozen=True)
class GroupsBySignal:
    """Groups in the order in which they were sampled.

    Attributes:
        with_signal: Rewards differ.
        all_correct: All rewards are the same, and all trajectories are correct.
        all_wrong: All rewards are the same, and not all trajectories are correct.
    """

    with_signal: list[list[Trajectory]]
    all_correct: list[list[Trajectory]]
    all_wrong: list[list[Trajectory]]


def by_signal(trajectories: Sequence[Trajectory]) -> GroupsBySignal:
    """Tell the groups of trajectories apart.

    Args:
        trajectories: Rewarded; those that failed have been taken out.
    """
    found = GroupsBySignal([], [], [])
    for group in by_group(trajectories).values():
        rewards = [trajectory.reward for trajectory in group]
        if max(rewards) > min(rewards):
            found.with_signal.append(group)
        elif all(trajectory.is_correct for trajectory in group):
            found.all_correct.append(group)
        else:
            found.all_wrong.append(group)
    return found


def oversampling_metrics(
    groups: GroupsBySignal, rounds: Sequence[Sequence[Trajectory]], trained: Sequence[Trajectory]
) -> dict[str, float]:
    """Signals of over-sampling.

    Args:
        groups: Of all rounds, without failed trajectories.
        rounds: The trajectories of each round, in order, at least one round.
        trained: Those that are trained on.

    Returns:
        ``rollout/rounds``; ``rollout/groups_drawn`` (one for each prompt); ``rollout/groups_with_signal``,
        ``rollout/groups_all_correct``, ``rollout/groups_all_wrong`` (counts); ``rollout/further_tokens`` (share of the
        sampled tokens that rounds after the first sampled); ``reward/mean_trained`` where there are any. The last is
        biased towards the middle by the choice of groups: ``reward/mean``, of all that were sampled, is comparable with
        a run that chooses none.
    """
    tokens = [sum(len(turn.action_ids) for one in trajectories for turn in one.turns) for trajectories in rounds]
    values = {
        "rollout/rounds": float(len(rounds)),
        "rollout/groups_drawn": float(len({one.group_id for trajectories in rounds for one in trajectories})),
        "rollout/groups_with_signal": float(len(groups.with_signal)),
        "rollout/groups_all_correct": float(len(groups.all_correct)),
        "rollout/groups_all_wrong": float(len(groups.all_wrong)),
        "rollout/further_tokens": sum(tokens[1:]) / max(sum(tokens), 1),
    }
    if trained:
        values["reward/mean_trained"] = sum(one.reward for one in trained) / len(trained)
    return values

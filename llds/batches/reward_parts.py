"""What each part of the reward gave, as tensors: for advantages that compare parts, or actions, one by one."""

import math
from collections.abc import Sequence

import torch

from llds.losses import RewardParts
from llds.rewards import Reward
from llds.types import WHOLE, Trajectory


def reward_parts(trajectories: Sequence[Trajectory], reward: Reward) -> RewardParts:
    """Make the tensors of an iteration.

    Args:
        trajectories: At least one; they are scored.
        reward: What scored them.
    """
    weights = reward.part_weights or {WHOLE: 1.0}
    most_turns = max(len(one.turns) for one in trajectories)
    values = [[_of(one).get(name, math.nan) for name in weights] for one in trajectories]
    turn_values = torch.full((len(trajectories), len(weights), most_turns), math.nan)
    for row, trajectory in enumerate(trajectories):
        for turn, one in enumerate(trajectory.turns):
            for part, name in enumerate(weights):
                turn_values[row, part, turn] = one.rewards.get(name, math.nan)
    return RewardParts(tuple(weights), torch.tensor(list(weights.values())), torch.tensor(values), turn_values)


def _of(trajectory: Trajectory) -> dict[str, float]:
    return trajectory.rewards or {WHOLE: trajectory.reward}

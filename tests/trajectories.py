"""Trajectories of random tokens, for tests of what is trained on them."""

import random

from llds.types import Action, Prompt, SamplingParams, Trajectory, Turn


def random_trajectory(seed: int, group: int, reward: float, vocabulary: int = 500, turns: int = 2) -> Trajectory:
    """A trajectory of ragged length: prompt, then actions with observations between them."""
    draw = random.Random(seed)

    def tokens(low: int, high: int) -> list[int]:
        return [draw.randrange(2, vocabulary) for _ in range(draw.randint(low, high))]

    prompt = Prompt("p", "?", ("gold",), prompt_ids=tuple(tokens(3, 6)))
    trajectory = Trajectory(prompt, f"0-{group}", seed, SamplingParams(), reward=reward, is_correct=reward > 0)
    for number in range(turns):
        action = tokens(2, 5)
        observation = tokens(3, 8) if number + 1 < turns else []
        kind = "tool" if observation else "answer"
        log_probs = [-draw.random() for _ in action]
        trajectory.turns.append(Turn(action, log_probs, "stop", Action(kind, "search", "x"), observation))
    return trajectory


def random_trajectories(groups: int = 4, members: int = 4, seed: int = 0, vocabulary: int = 500) -> list[Trajectory]:
    """Groups whose first trajectory is right and whose others are wrong, except the last group: all wrong."""
    return [
        random_trajectory(
            1000 * seed + group * members + member, group, float(member == 0 and group + 1 < groups), vocabulary
        )
        for group in range(groups)
        for member in range(members)
    ]

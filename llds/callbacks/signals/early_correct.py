"""A fixed set of early correct trajectories: what the policy knew when it began, and may forget."""

from collections.abc import Mapping, Sequence
from typing import Any

from llds.types import Action, Prompt, SamplingParams, Trajectory, Turn

_ITERATIONS = 5
"""Iterations with correct trajectories after which the set is closed, however small."""

Tokens = dict[str, Any]
"""A trajectory's token ids: ``prompt``, and ``turns`` of (action, observation)."""


class EarlyCorrect:
    """Collects correct trajectories of the first iterations that have any, of as many questions as possible.

    The set is complete, and the same from then on, when it has the wanted size or after a few iterations. It survives
    a checkpoint, and is the same on every rank.

    Attributes:
        trajectories: The set, of which only the tokens are kept; empty until it is complete.
    """

    def __init__(self) -> None:
        self.trajectories: list[Trajectory] = []
        self._kept: list[Tokens] = []
        self._iterations = 0

    def collect(self, trajectories: Sequence[Trajectory], size: int) -> None:
        """Take in an iteration's correct trajectories unless the set is complete.

        Args:
            trajectories: Of the iteration.
            size: Trajectories of a complete set, at least 1.
        """
        correct = [trajectory for trajectory in trajectories if trajectory.is_correct and trajectory.turns]
        if self.trajectories or not correct:
            return
        self._iterations += 1
        first_of_groups = list({trajectory.group_id: trajectory for trajectory in reversed(correct)}.values())[::-1]
        others = [trajectory for trajectory in correct if all(trajectory is not first for first in first_of_groups)]
        self._kept += [_tokens(trajectory) for trajectory in (*first_of_groups, *others)][: size - len(self._kept)]
        if len(self._kept) >= size or self._iterations >= _ITERATIONS:
            self._complete()

    def state_dict(self) -> dict[str, Any]:
        """The token ids, and how far the collection is."""
        return {"kept": self._kept, "iterations": self._iterations, "is_complete": bool(self.trajectories)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._kept, self._iterations, self.trajectories = list(state["kept"]), state["iterations"], []
        if state["is_complete"]:
            self._complete()

    def _complete(self) -> None:
        self.trajectories = [_trajectory(tokens, number) for number, tokens in enumerate(self._kept)]


def _tokens(trajectory: Trajectory) -> Tokens:
    turns = [(list(turn.action_ids), list(turn.observation_ids)) for turn in trajectory.turns]
    return {"prompt": list(trajectory.prompt.prompt_ids), "turns": turns}


def _trajectory(tokens: Tokens, number: int) -> Trajectory:
    """A trajectory of these tokens; all else about it is forgotten."""
    prompt = Prompt("", "", (), prompt_ids=tuple(tokens["prompt"]))
    turns = [
        Turn(action, [0.0] * len(action), "stop", Action("invalid"), observation)
        for action, observation in tokens["turns"]
    ]
    return Trajectory(prompt, str(number), number, SamplingParams(), turns=turns)

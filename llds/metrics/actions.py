"""Which kind of action each token belongs to: the first one, a later one, or the answer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llds.metrics.averages import RowMeans, Scalars
from llds.types import Trajectory


def has_answer(trajectories: Sequence[Trajectory]) -> Tensor:
    """Whether each trajectory's last action is an answer, ``[B]`` bool."""
    return torch.tensor([trajectory.answer is not None for trajectory in trajectories], dtype=torch.bool)


@dataclass(frozen=True)
class ActionKinds:
    """Action tokens by the kind of their action: every one belongs to exactly one kind.

    Attributes:
        first: Of the first action, unless it is the answer, ``[B, T]`` bool.
        later: Of actions between the first and the answer, ``[B, T]`` bool.
        answer: Of the action that holds the answer, ``[B, T]`` bool.
    """

    first: Tensor
    later: Tensor
    answer: Tensor

    @classmethod
    def of(cls, action_index: Tensor, answered: Tensor) -> "ActionKinds":
        """Tell the kinds apart.

        Args:
            action_index: Turn number on action tokens, -1 elsewhere, ``[B, T]``.
            answered: Whether the last action is an answer (`has_answer`), ``[B]`` bool.
        """
        on_mask = action_index >= 0
        last = action_index.amax(dim=1, keepdim=True)
        answer = on_mask & (action_index == last) & answered.to(action_index.device)[:, None]
        return cls((action_index == 0) & ~answer, (action_index > 0) & ~answer, answer)

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Name and mask of each kind."""
        yield from (("first", self.first), ("later", self.later), ("answer", self.answer))


def by_outcome(name: str, values: Tensor, mask: Tensor, correct: Tensor, kinds: ActionKinds) -> Scalars:
    """Means of correct and of incorrect trajectories, per token, then over trajectories: of all actions, and by kind.

    Args:
        name: Begins the keys: ``name_correct``, ``name_correct_first``, and so on.
        values: ``[B, T]``; anything off the mask.
        mask: True on action tokens, ``[B, T]``.
        correct: Whether each trajectory is correct, ``[B]`` bool.
        kinds: Of the action tokens.
    """
    tokens = {"": mask, **{f"_{kind}": of for kind, of in kinds}}
    means = {kind: RowMeans.of(values, of) for kind, of in tokens.items()}
    rows = {"correct": correct, "incorrect": ~correct}
    return {f"{name}_{outcome}{kind}": one.over(rows[outcome]) for outcome in rows for kind, one in means.items()}

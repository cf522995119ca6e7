"""Trajectories as one right-padded batch of tensors: what scoring and training read.

Entry ``[b, t]`` of every ``[B, T]`` tensor is about token ``t`` of trajectory ``b``: its log-probability is that of the
token given the tokens before it. All masks come from lengths and turn numbers, never from pad ids or text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from llds.batches.micro_batches import MicroBatchLimits, packed_micro_batches, padded_micro_batches
from llds.batches.reward_parts import reward_parts
from llds.losses import RewardParts
from llds.rewards import Reward
from llds.types import Trajectory


@dataclass(frozen=True)
class PolicyBatch:
    """A batch of trajectories, or some rows of it.

    Attributes:
        input_ids: Tokens, ``[B, T]`` long; padding is 0.
        attention_mask: 1 on tokens, 0 on padding, ``[B, T]`` long.
        action_index: Turn number on action tokens, -1 elsewhere, ``[B, T]`` long.
        answer_mask: True on the tokens of the final answer span, ``[B, T]`` bool.
        behavior_log_probs: What the sampler reported, 0 off the mask, ``[B, T]`` fp32.
        rewards: ``[B]`` fp32.
        correct: Whether each trajectory is correct, ``[B]`` bool.
        advantages: ``[B]`` fp32, or ``[B, T]`` where tokens differ; zero until the module sets them.
        groups: Group number of each row, ``[B]`` long.
        old_log_probs: Under the policy at the start of the iteration, ``[B, T]`` fp32; None where the step's
            own forward gives them: before the weights have moved.
        ref_log_probs: Under the reference policy, where a KL penalty uses it.
        anchor_log_probs: Under the anchor of the LLDS penalty, where it is not the old policy.
        outcome_advantages: How each outcome compares with its group's, ``[B]``, where `advantages` are others.
        is_void: Whether a turn was neither a tool call nor an answer, ``[B]`` bool.
        old_entropy: Of the old policy at action tokens, ``[B, T]`` fp32, where a selection uses it.
        entropy: Of the policy of now, with gradient, ``[B, T]``, once it has scored the batch.
        loss_weights: Of the tokens in the policy loss, where a selection gives them (`llds.losses.LossBatch`).
        loss_penalties: The same of a token's drift.
        loss_pulls: The same of its distance below `old_proxy`.
        old_proxy: Log-probs under the old policy without its unlikely tokens, ``[B, T]``, where a selection uses it.
        influence: Of each action token on the correct trajectories of its group, ``[B, T]``, where advantages use it.
        excluded: Tokens that a selection leaves out and does not count, ``[B, T]`` bool.
        reward_parts: What each part of the reward gave; None in rows of an iteration, whose advantages are there.
    """

    input_ids: Tensor
    attention_mask: Tensor
    action_index: Tensor
    answer_mask: Tensor
    behavior_log_probs: Tensor
    rewards: Tensor
    correct: Tensor
    advantages: Tensor
    groups: Tensor
    old_log_probs: Tensor | None = None
    ref_log_probs: Tensor | None = None
    anchor_log_probs: Tensor | None = None
    outcome_advantages: Tensor | None = None
    is_void: Tensor | None = None
    old_entropy: Tensor | None = None
    entropy: Tensor | None = None
    loss_weights: Tensor | None = None
    loss_penalties: Tensor | None = None
    loss_pulls: Tensor | None = None
    old_proxy: Tensor | None = None
    influence: Tensor | None = None
    excluded: Tensor | None = None
    reward_parts: RewardParts | None = None

    def __len__(self) -> int:
        """Number of trajectories."""
        return self.input_ids.shape[0]

    @property
    def lengths(self) -> Tensor:
        """Tokens of each trajectory, ``[B]``."""
        return self.attention_mask.sum(dim=1)

    @property
    def action_mask(self) -> Tensor:
        """True on action tokens, ``[B, T]``."""
        return self.action_index >= 0

    def rows(self, indices: Tensor) -> "PolicyBatch":
        """The given rows, cut to the longest of them."""
        width = int(self.lengths[indices].max())
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        taken = {name: one[indices, :width] if one.ndim == 2 else one[indices] for name, one in tensors.items()}
        return replace(self, **taken, reward_parts=None)

    def micro_batches(
        self, limits: MicroBatchLimits, rank: int = 0, ranks: int = 1, *, packed: bool = False
    ) -> Iterator[tuple[Tensor, "PolicyBatch"]]:
        """A rank's micro-batches, as many as every other rank's.

        Args:
            limits: Of a micro-batch.
            rank: Number of this rank.
            ranks: Number of ranks.
            packed: Whether common prefixes will be computed once; else rows will be padded.

        Yields:
            The row numbers and the rows; where the rank runs short, no row number and a row without actions.
        """
        mine = (
            packed_micro_batches(self.input_ids, self.lengths, limits, rank, ranks)
            if packed
            else padded_micro_batches(self.lengths, limits, rank, ranks)
        )
        for indices in mine:
            yield indices, self.rows(indices) if len(indices) else self._without_actions()

    def _without_actions(self) -> "PolicyBatch":
        """The first tokens of a row, none of which counts: its loss is 0 and connected to every weight."""
        row = self.rows(torch.zeros(1, dtype=torch.long, device=self.input_ids.device))
        cut = {name: value[:, :2] for name, value in vars(row).items() if value is not None and value.ndim == 2}
        none = torch.full_like(cut["action_index"], -1)
        zero = torch.zeros_like(cut.get("advantages", row.advantages))
        return replace(row, **cut | {"action_index": none, "advantages": zero})

    def to(self, device: torch.device) -> "PolicyBatch":
        """Copy to a device."""
        return replace(self, **{name: value.to(device) for name, value in vars(self).items() if value is not None})


def collate(
    trajectories: Sequence[Trajectory], answer_spans: Sequence[range] | None = None, reward: Reward | None = None
) -> PolicyBatch:
    """Make the batch of an iteration.

    Args:
        trajectories: At least one; those that failed have been taken out.
        answer_spans: Positions of each trajectory's final answer among its token ids; None marks no answers.
        reward: What scored them; None leaves its parts out.
    """
    shape = (len(trajectories), max(trajectory.length for trajectory in trajectories))
    input_ids = np.zeros(shape, dtype=np.int64)
    attention_mask = np.zeros(shape, dtype=np.int64)
    action_index = np.full(shape, -1, dtype=np.int64)
    answer_mask = np.zeros(shape, dtype=np.bool_)
    behavior_log_probs = np.zeros(shape, dtype=np.float32)
    numbers: dict[str, int] = {}
    for row, trajectory in enumerate(trajectories):
        end = _fill(input_ids[row], action_index[row], behavior_log_probs[row], trajectory)
        attention_mask[row, :end] = 1
        if answer_spans is not None:
            answer_mask[row, answer_spans[row].start : answer_spans[row].stop] = True
        numbers.setdefault(trajectory.group_id, len(numbers))
    return PolicyBatch(
        input_ids=torch.from_numpy(input_ids),
        attention_mask=torch.from_numpy(attention_mask),
        action_index=torch.from_numpy(action_index),
        answer_mask=torch.from_numpy(answer_mask),
        behavior_log_probs=torch.from_numpy(behavior_log_probs),
        rewards=torch.tensor([trajectory.reward for trajectory in trajectories], dtype=torch.float32),
        correct=torch.tensor([trajectory.is_correct for trajectory in trajectories], dtype=torch.bool),
        advantages=torch.zeros(len(trajectories)),
        groups=torch.tensor([numbers[trajectory.group_id] for trajectory in trajectories]),
        is_void=torch.tensor([any(turn.action.kind == "invalid" for turn in one.turns) for one in trajectories]),
        reward_parts=reward_parts(trajectories, reward) if reward else None,
    )


def _fill(ids: np.ndarray, index: np.ndarray, log_probs: np.ndarray, trajectory: Trajectory) -> int:
    """Write a trajectory into its row of each array; returns its length. Lists go in whole: numpy reads them fast."""
    at = len(trajectory.prompt.prompt_ids)
    ids[:at] = trajectory.prompt.prompt_ids
    for number, turn in enumerate(trajectory.turns):
        end = at + len(turn.action_ids)
        ids[at:end], index[at:end], log_probs[at:end] = turn.action_ids, number, turn.behavior_log_probs
        at = end + len(turn.observation_ids)
        ids[end:at] = turn.observation_ids
    return at

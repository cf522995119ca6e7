"""Design rule 1, checked on every batch: what is trained on is what was sampled and appended, token by token."""

from collections.abc import Sequence

import numpy as np

from llds.batches import PolicyBatch
from llds.errors import LLDSError
from llds.types import Trajectory


def check_trained_ids(trajectories: Sequence[Trajectory], batch: PolicyBatch) -> None:
    """Check that prompt ids + per-turn action and observation ids = trained ids, actions where the mask says.

    Reads the turns themselves, not what `Trajectory` derives from them. A few list operations per trajectory.

    Args:
        trajectories: In the order of the rows.
        batch: Made from them.

    Raises:
        LLDSError: Naming the first trajectory that differs.
    """
    lengths, is_token = batch.lengths.cpu().numpy(), batch.attention_mask.bool().cpu().numpy()
    input_ids, action_index = batch.input_ids.cpu().numpy(), batch.action_index.cpu().numpy()
    for row, trajectory in enumerate(trajectories):
        ids = list(trajectory.prompt.prompt_ids)
        numbers, sizes = [-1], [len(ids)]
        for number, turn in enumerate(trajectory.turns):
            ids += turn.action_ids + turn.observation_ids
            numbers += [number, -1]
            sizes += [len(turn.action_ids), len(turn.observation_ids)]
            _expect(len(turn.behavior_log_probs) == len(turn.action_ids), trajectory, "one log-prob per action token")
        end, index = len(ids), np.repeat(numbers, sizes)
        is_whole = lengths[row] == end and bool(is_token[row, :end].all())
        _expect(is_whole and input_ids[row, :end].tolist() == ids, trajectory, "the token ids")
        _expect(np.array_equal(action_index[row, :end], index), trajectory, "the action index")
        _expect(bool((action_index[row, end:] == -1).all()), trajectory, "no action in the padding,")


def _expect(holds: bool, trajectory: Trajectory, what: str) -> None:
    if not holds:
        raise LLDSError(
            f"Expected {what} of prompt, actions and observations in trajectory {trajectory.index} (group "
            f"{trajectory.group_id}, question {trajectory.prompt.prompt_id}), got others in the batch to train on; "
            "nothing was trained on it. A sampler, a tool or a subclass changes tokens after they were sampled: "
            "leave them as they are."
        )

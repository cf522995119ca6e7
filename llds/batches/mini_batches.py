"""Which trajectories of an iteration go into which optimizer step."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def mini_batches(groups: Tensor, count: int, seed: Sequence[int]) -> list[Tensor]:
    """Share out the rows of an iteration: whole groups, in an order that the seed fixes.

    Args:
        groups: Group number of each row, 0 to the number of groups - 1, ``[B]`` long.
        count: Number of mini-batches; fewer where there are fewer groups.
        seed: Non-negative numbers.

    Returns:
        Row numbers of each mini-batch, ascending, on the device of `groups`.
    """
    order = torch.from_numpy(np.random.default_rng(list(seed)).permutation(int(groups.max()) + 1)).to(groups.device)
    return [torch.isin(groups, part).nonzero()[:, 0] for part in order.tensor_split(min(count, len(order)))]

"""Adam's last update: how far a step moved the weights, whatever the scale of the gradient."""

from collections.abc import Iterator

import torch
from torch import Tensor

_CHUNK = 2**24
"""Elements at a time: partitioned optimizers keep all of a rank's weights in one tensor."""


@torch.no_grad()
def squared_adam_update(optimizer: torch.optim.Adam, learning_rate: float) -> Tensor:
    r"""Square of the Euclidean norm of the last step of Adam or AdamW over the weights that this optimizer holds.

    The step is recomputed from the optimizer's state, with no copy of the weights:

    .. math::
        \Delta\theta = -\eta \Big( \frac{\hat m}{\sqrt{\hat v} + \epsilon} + w\, \theta_{before} \Big)

    arXiv 1711.05101, algorithm 2, with :math:`\hat m, \hat v` corrected for their start and :math:`w` the weight decay.

    Args:
        optimizer: After its step; of one parameter group.
        learning_rate: :math:`\eta` of that step; a schedule may have moved on.

    Returns:
        A scalar float64; 0 before the first step. Of parts on several ranks, the sum is the whole.
    """
    parts = list(_squares(optimizer, learning_rate))
    return torch.stack(parts).sum() if parts else torch.zeros((), dtype=torch.float64)


def _squares(optimizer: torch.optim.Adam, learning_rate: float) -> Iterator[Tensor]:
    group = optimizer.param_groups[0]
    first_decay, second_decay = group["betas"]
    decay = group["weight_decay"]
    for parameter, state in optimizer.state.items():  # not those of the group: DeepSpeed takes them out after each step
        step = float(state["step"])
        flat = (state["exp_avg"].flatten(), state["exp_avg_sq"].flatten(), parameter.detach().flatten())
        for first, second, weights in zip(*(tensor.split(_CHUNK) for tensor in flat), strict=True):
            # m^ / (sqrt(v^) + eps) = size * m / (sqrt(v) + eps'), in as few passes over memory as there are
            root = (1 - second_decay**step) ** 0.5
            size = root / (1 - first_decay**step)
            scale = second.sqrt().add_(group["eps"] * root)
            update = torch.div(first, scale, out=scale)
            if decay:  # theta_before = (theta + eta * update) / (1 - eta * decay)
                size /= 1 - learning_rate * decay
                update.add_(weights, alpha=decay / (1 - learning_rate * decay) / size)
            yield (learning_rate * size * torch.linalg.vector_norm(update, dtype=torch.float64)).square()

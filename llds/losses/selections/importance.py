r"""Truncated importance sampling: the sampler is not exactly the old policy, and the policy gradient can allow for it.

The engine that samples computes in another precision and order than the trainer, so its actions come from a behavior
policy :math:`\mu` close to, but not equal to, the old policy :math:`\pi_{old}`. Weights :math:`\pi_{old} / \mu`,
truncated from above, make up for that.

They multiply the policy-gradient term alone. KL and LLDS stay as they are: both are penalties on the tokens at hand,
measured by the trainer's own log-probabilities, and neither claims to be an expectation over :math:`\mu`.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from llds.errors import ConfigurationError
from llds.losses.loss import LossBatch
from llds.losses.masking import action_mask, check_choice, check_shapes, masked
from llds.losses.selections.selection import Selected, Selection

ImportanceLevel = Literal["token", "sequence"]


def importance_weights(
    old_log_probs: Tensor,
    behavior_log_probs: Tensor,
    action_index: Tensor,
    *,
    level: ImportanceLevel = "token",
    cap: float = 2.0,
) -> Tensor:
    r"""Truncated importance weights of the action tokens.

    .. math::
        w_{i,k} = \min\Big(\frac{\pi_{old}(y_{i,k})}{\mu(y_{i,k})},\; C\Big) \quad\text{(token)}, \qquad
        w_{i,k} = \min\Big(\prod_j \frac{\pi_{old}(y_{i,j})}{\mu(y_{i,j})},\; C\Big) \quad\text{(sequence)}

    Token level: bounded variance, a small bias. Sequence level: unbiased but for the truncation, and noisy on long
    trajectories. Ionides 2008 (truncated importance sampling); Yao et al. 2025 (for mismatched samplers).

    Args:
        old_log_probs: Under the old policy, by the trainer, ``[B, T]``; anything off the actions.
        behavior_log_probs: By the sampler, ``[B, T]``; anything off the actions.
        action_index: Turn number of each action token, -1 elsewhere, ``[B, T]`` long.
        level: Whether each token has its own weight, or all tokens of a trajectory the same.
        cap: :math:`C`, at least 1.

    Returns:
        ``[B, T]``, 1 off the actions; no gradient flows through it.
    """
    check_choice("level", level, ImportanceLevel)
    _check_cap(cap)
    check_shapes(action_index, old_log_probs=old_log_probs, behavior_log_probs=behavior_log_probs)
    mask = action_mask(action_index)
    log_ratio = masked(old_log_probs.detach(), mask) - masked(behavior_log_probs.detach(), mask).to(old_log_probs.dtype)
    if level == "sequence":
        log_ratio = torch.where(mask, log_ratio.sum(1, keepdim=True), torch.zeros_like(log_ratio))
    return log_ratio.clamp(max=math.log(cap)).exp()


@dataclass(frozen=True)
class ImportanceCorrection(Selection):
    """Corrects the policy gradient for the gap between sampler and trainer (see `importance_weights`)."""

    is_local = True
    corrects_sampler = True

    level: ImportanceLevel = "token"
    """Whether each token has its own weight, or all tokens of a trajectory the same."""
    cap: float = 2.0
    """Largest weight, at least 1; larger ratios count as this."""

    def __post_init__(self) -> None:
        check_choice("level", self.level, ImportanceLevel)
        _check_cap(self.cap)

    def __call__(self, batch: LossBatch) -> Selected:
        """Weigh tokens."""
        old, behavior = batch.need("old_log_probs", self), batch.need("behavior_log_probs", self)
        return Selected(loss_weights=self.weights(old, behavior, batch.action_index))

    def weights(self, old_log_probs: Tensor, behavior_log_probs: Tensor, action_index: Tensor) -> Tensor:
        """Compute `importance_weights`."""
        return importance_weights(old_log_probs, behavior_log_probs, action_index, level=self.level, cap=self.cap)


def _check_cap(cap: float) -> None:
    if not 1 <= cap < math.inf:
        raise ConfigurationError(f"Expected `cap` of the importance correction to be a number >= 1, got {cap}.")

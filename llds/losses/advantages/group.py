"""Group-relative advantages: how much better a trajectory did than the others of its prompt.

Runs once per rollout iteration, after the rewards and before any loss.

Left out on purpose: which trajectories enter (failed ones leave their group before), and value functions.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Literal

import torch
from torch import Tensor

from llds.errors import ConfigurationError
from llds.losses.masking import check_choice, check_positive

AdvantageScale = Literal["std", "none"]
"""``std``: divide by the group's standard deviation (GRPO). ``none``: do not (one half of Dr.GRPO; the other is
``aggregation: constant`` of the policy loss)."""


def group_advantages(
    rewards: Tensor, group_ids: Tensor | Sequence[Hashable], *, scale: AdvantageScale = "std", eps: float = 1e-6
) -> Tensor:
    r"""Advantage of each trajectory within its group.

    .. math::
        A_i = \frac{r_i - \mathrm{mean}(r)}{\mathrm{std}(r) + \epsilon}

    arXiv 2512.04220 v2, text at eq. 1. :math:`r` are the rewards of the group, :math:`\mathrm{std}` is the sample
    standard deviation (ddof 1). A group whose rewards are all equal gives exactly 0, so that LLDS preserves it.
    No gradient flows; no trajectories give an empty tensor.

    Args:
        rewards: ``[B]``.
        group_ids: ``[B]`` long tensor, or a sequence of hashables (the strings minted at sampling time); any order.
        scale: ``std`` divides by the standard deviation, ``none`` does not (Dr.GRPO, arXiv 2503.20783).
        eps: Keeps the division finite; in units of the reward.

    Returns:
        ``[B]``, in the dtype of `rewards` (the default dtype for integers).

    Raises:
        ConfigurationError: For a group of one, which has no baseline; for a reward that is not finite; for lengths
            that differ.

    Note:
        The authors' code gives a group of one the mean 0 and the standard deviation 1, so that its raw reward becomes
        the advantage. Here that is an error.
    """
    check_choice("scale", scale, AdvantageScale)
    check_positive("eps", eps)
    ids = group_ids.tolist() if isinstance(group_ids, Tensor) else list(group_ids)
    _check(rewards, ids)
    first: dict[Hashable, int] = {}  # position of each group's first trajectory, which also names the group
    group = torch.tensor([first.setdefault(name, i) for i, name in enumerate(ids)], device=rewards.device).long()
    values = rewards.detach().to(torch.float64)

    def total(of: Tensor) -> Tensor:
        """Sum over each trajectory's group, [B]."""
        return group_sum(of, group)

    size = total(torch.ones_like(values))
    offsets = values - values[group]  # exactly 0 throughout a group of equal rewards
    centered = offsets - total(offsets) / size
    if scale == "std":
        centered = centered / ((total(centered**2) / (size - 1)).sqrt() + eps)
    return centered.to(rewards.dtype if rewards.is_floating_point() else torch.get_default_dtype())


def group_sum(values: Tensor, groups: Tensor) -> Tensor:
    """Sum over each trajectory's group.

    Args:
        values: ``[B]``.
        groups: Number of each trajectory's group, from 0 to B - 1, ``[B]`` long.

    Returns:
        ``[B]``.
    """
    return torch.zeros_like(values).index_add(0, groups, values)[groups]


def _check(rewards: Tensor, ids: list[Hashable]) -> None:
    """Refuse what has no advantage."""
    if rewards.ndim != 1 or len(ids) != rewards.shape[0]:
        raise ConfigurationError(f"Expected one reward per group id, got {list(rewards.shape)} for {len(ids)} ids.")
    is_bad = ~torch.isfinite(rewards)
    if bool(is_bad.any()):
        position = int(is_bad.nonzero()[0])
        raise ConfigurationError(
            f"Expected finite rewards, got {float(rewards[position])} at position {position} (group {ids[position]!r})."
            " Check the reward function."
        )
    alone = [group_id for group_id, size in Counter(ids).items() if size == 1]
    if alone:
        raise ConfigurationError(
            f"Expected groups of at least 2 trajectories, so that there is a baseline, got a group of one "
            f"({alone[0]!r} at position {ids.index(alone[0])}). Raise the group size, or drop groups that failures "
            "left with one."
        )

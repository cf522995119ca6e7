"""The one mask, and the two ways to average over it.

Every loss and metric reads the action tokens from `action_index` through this file, so that prompts, observations and
padding can hold anything (NaN and infinities too) without changing a loss or a gradient. Averages take an optional
global denominator: the loss of a micro-batch is then its share of the mini-batch's loss, and the shares of all
micro-batches and ranks add up to exactly that loss.

Left out on purpose: how the mask is made: `Trajectory.action_index` numbers what the policy sampled and marks prompt
and observations with -1, and `llds.batches.collate` marks padding so.
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from llds.errors import ConfigurationError

Aggregation = Literal["trajectory", "token"]
"""``trajectory`` (the paper): the mean over each trajectory's action tokens, then over trajectories. ``token`` (the
authors' code): one mean over all action tokens."""

PolicyAggregation = Literal["trajectory", "token", "constant"]
"""That of a policy loss, which may also be ``constant`` (Dr.GRPO): the sum over action tokens, divided by the number of
trajectories times a fixed number of tokens."""


def action_mask(action_index: Tensor) -> Tensor:
    """Whether each token was sampled by the policy.

    Args:
        action_index: Turn number of each action token, -1 elsewhere, ``[B, T]`` long.

    Returns:
        ``[B, T]`` bool.
    """
    return action_index >= 0


def number_actions(mask: Tensor) -> Tensor:
    """Number the actions of trajectories of which only the mask is known: each run of sampled tokens is one.

    Args:
        mask: Nonzero on the tokens that the policy sampled, ``[B, T]``; tokens between two actions, such as what a tool
            answered, are 0. Without such tokens between them two actions count as one.

    Returns:
        Turn number of each action token, -1 elsewhere, ``[B, T]`` long.
    """
    inside = mask.bool()
    before = torch.nn.functional.pad(inside, (1, 0))[:, :-1]
    return torch.where(inside, (inside & ~before).cumsum(1) - 1, -1)


def masked(values: Tensor, mask: Tensor) -> Tensor:
    """Replace what is off the mask by 0, before any arithmetic: no gradient flows there, and no ``NaN * 0`` arises.

    Args:
        values: ``[B, T]``; anything off the mask.
        mask: ``[B, T]`` bool.
    """
    return torch.where(mask, values, torch.zeros((), dtype=values.dtype, device=values.device))


def sum_by_action(values: Tensor, action_index: Tensor) -> Tensor:
    """Sum over the tokens of each action.

    Args:
        values: ``[B, T]``, 0 off the actions.
        action_index: Turn number of each action token, -1 elsewhere, ``[B, T]`` long.

    Returns:
        ``[B, K]`` with K the largest number of actions (at least 1); 0 where a trajectory has fewer.
    """
    n_actions = int(action_index.max()) + 1 if action_index.numel() else 0
    sums = values.new_zeros(values.shape[0], max(n_actions, 1))
    return sums.scatter_add(1, action_index.clamp(min=0), values)


def count(
    mask: Tensor, aggregation: PolicyAggregation, rows: Tensor | None = None, constant_tokens: int | None = None
) -> Tensor:
    """What an average divides by: trajectories that have an action token, or all action tokens.

    Args:
        mask: ``[B, T]`` bool.
        aggregation: Which of them; ``constant`` counts each trajectory as `constant_tokens` tokens.
        rows: ``[B]`` bool: the only trajectories that count; does not touch the number of tokens.
        constant_tokens: Read with ``constant`` only.

    Returns:
        Scalar float64, which can be added up over micro-batches and ranks.
    """
    if aggregation == "token":
        return mask.sum(dtype=torch.float64)
    counted = mask.any(1) if rows is None else mask.any(1) & rows
    total = counted.sum(dtype=torch.float64)
    return total * constant_tokens if aggregation == "constant" and constant_tokens else total


def average(values: Tensor, mask: Tensor, aggregation: PolicyAggregation, denominator: float | Tensor) -> Tensor:
    """Sum of the trajectories' token means (or of all tokens), divided by the denominator.

    Args:
        values: ``[B, T]``, 0 off the mask.
        mask: ``[B, T]`` bool.
        aggregation: ``trajectory``, ``token`` or ``constant``.
        denominator: What to divide by, as `count` gives it, of these trajectories or of all micro-batches and ranks.
            0 (nothing counts) divides by 1.

    Returns:
        Scalar; exactly 0, connected to the graph, for an empty mask.
    """
    if aggregation != "trajectory":
        return divide(values.sum(), denominator)
    return divide((values.sum(1) / mask.sum(1).clamp(min=1)).sum(), denominator)


def per_token(advantages: Tensor, mask: Tensor) -> Tensor:
    """Advantages beside tokens: ``[B, 1]`` of ``[B]``, ``[B, T]`` of ``[B, T]``; 0 where a trajectory has no action.

    Args:
        advantages: ``[B]`` or ``[B, T]``; anything off the mask.
        mask: ``[B, T]`` bool.
    """
    if advantages.ndim == 2:
        return masked(advantages.detach(), mask)
    return torch.where(mask.any(1), advantages.detach(), 0).unsqueeze(1)


def divide(total: Tensor, denominator: float | Tensor) -> Tensor:
    """Divide a scalar by a count; by 1 where nothing counts."""
    divisor = torch.as_tensor(denominator, dtype=total.dtype, device=total.device).detach()
    return total / torch.where(divisor > 0, divisor, torch.ones_like(divisor))


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Detached mean over a mask, for metrics; 0 for an empty one."""
    return divide(masked(values.detach(), mask).sum(), mask.sum())


def check_shapes(action_index: Tensor, **tensors: Tensor) -> None:
    """Refuse tensors that would broadcast silently.

    Args:
        action_index: ``[B, T]`` long.
        tensors: ``[B, T]`` each, but ``advantages`` ``[B]`` and ``token_advantages`` either.

    Raises:
        ConfigurationError: For a tensor of another shape, naming it.
    """
    if action_index.ndim != 2:
        raise ConfigurationError(f"Expected `action_index` of shape [B, T], got {list(action_index.shape)}.")
    for name, tensor in tensors.items():
        is_by_row = name == "advantages" or (name == "token_advantages" and tensor.ndim == 1)
        expected = action_index.shape[:1] if is_by_row else action_index.shape
        if tensor.shape != expected:
            raise ConfigurationError(
                f"Expected `{name}` of shape {list(expected)} to go with `action_index` {list(action_index.shape)}, "
                f"got {list(tensor.shape)}."
            )


def check_choice(name: str, value: object, choices: object) -> None:
    """Refuse a value that is not among a ``Literal``'s.

    Args:
        name: The argument, for the message.
        value: What came.
        choices: The ``Literal`` type.

    Raises:
        ConfigurationError: Naming the argument, the choices and the value.
    """
    if value not in get_args(choices):
        raise ConfigurationError(
            f"Expected `{name}` to be one of {list(get_args(choices))}, got {value!r}. Choose one."
        )


def check_aggregation(aggregation: PolicyAggregation, constant_tokens: int | None) -> None:
    """Refuse an aggregation of a policy loss that is none, or a number of tokens that nothing reads, or its lack."""
    check_choice("aggregation", aggregation, PolicyAggregation)
    if (aggregation == "constant") != (constant_tokens is not None):
        raise ConfigurationError(
            "Expected `constant_tokens` exactly where `aggregation` is `constant` (the number of tokens that each "
            f"trajectory counts as, such as the longest sum of actions), got {constant_tokens} and `{aggregation}`."
        )
    if constant_tokens is not None:
        check_positive("constant_tokens", constant_tokens)


def check_positive(name: str, value: float) -> None:
    """Refuse a number that is not above 0, or not finite."""
    if not 0 < value < math.inf:
        raise ConfigurationError(f"Expected `{name}` > 0, got {value}. Give a positive number.")

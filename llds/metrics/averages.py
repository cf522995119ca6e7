"""Means over masks and over steps, as tensors until the end: on a GPU each number that is read waits for it.

NaN stands for "undefined" within an iteration's arithmetic; `as_floats` and `mean_metrics` leave it out.
"""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

Scalars = Mapping[str, Tensor | float]
"""Numbers by metric key; NaN where undefined."""


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over each row's tokens, then over the rows that have any; NaN without one.

    Args:
        values: ``[B, T]``; anything off the mask.
        mask: ``[B, T]`` bool.
    """
    tokens = mask.sum(dim=1)
    means = torch.where(mask, values, 0.0).sum(dim=1) / tokens.clamp(min=1)
    return means.sum() / (tokens > 0).sum()  # rows without a token add 0


def share(selected: Tensor, of: Tensor) -> Tensor:
    """Share of the true entries of one mask that are true in another too; NaN where it has none."""
    return (selected & of).sum() / of.sum()


def as_floats(values: Scalars) -> dict[str, float]:
    """Numbers as Python's, those that are not finite left out; the tensors are read all at once.

    Args:
        values: Scalars by key.
    """
    by_device: dict[torch.device, dict[str, Tensor]] = {}
    for key, value in values.items():
        if isinstance(value, Tensor):
            by_device.setdefault(value.device, {})[key] = value.detach().double()
    numbers = {key: value for key, value in values.items() if not isinstance(value, Tensor)}
    for tensors in by_device.values():
        numbers |= zip(tensors, torch.stack(list(tensors.values())).tolist(), strict=True)
    return {key: number for key in values if math.isfinite(number := numbers[key])}


def mean_metrics(rows: Iterable[Scalars]) -> dict[str, float]:
    """Mean of each key over the rows that have it as a finite number.

    Args:
        rows: Of the optimizer steps of an iteration, for example; their tensors are read all at once.
    """
    listed = as_floats({f"{number} {key}": value for number, row in enumerate(rows) for key, value in row.items()})
    values: dict[str, list[float]] = {}
    for name, value in listed.items():
        values.setdefault(name.split(" ", 1)[1], []).append(value)
    return {key: sum(found) / len(found) for key, found in values.items()}

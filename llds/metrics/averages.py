"""Means over masks and over steps, as tensors until the end: on a GPU each number that is read waits for it.

NaN stands for "undefined" within an iteration's arithmetic; `as_floats` and `mean_metrics` leave it out.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Scalars = Mapping[str, Tensor | float]
"""Numbers by metric key; NaN where undefined."""


@dataclass(frozen=True)
class RowMeans:
    """The mean over the tokens of each row.

    Attributes:
        means: ``[B]``; 0 in a row without a token.
        has_any: Whether the row has a token, ``[B]`` bool.
    """

    means: Tensor
    has_any: Tensor

    @classmethod
    def of(cls, values: Tensor, mask: Tensor) -> "RowMeans":
        """Average.

        Args:
            values: ``[B, T]``; anything off the mask.
            mask: ``[B, T]`` bool.
        """
        tokens = mask.sum(dim=1)
        return cls(torch.where(mask, values, 0.0).sum(dim=1) / tokens.clamp(min=1), tokens > 0)

    def over(self, rows: Tensor) -> Tensor:
        """Mean over those of the rows, ``[B]`` bool, that have a token; NaN without one."""
        return torch.where(rows, self.means, 0.0).sum() / (self.has_any & rows).sum()

    def over_all(self) -> Tensor:
        """Mean over all rows that have a token; NaN without one."""
        return self.means.sum() / self.has_any.sum()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over each row's tokens, then over the rows that have any; NaN without one.

    Args:
        values: ``[B, T]``; anything off the mask.
        mask: ``[B, T]`` bool.
    """
    return RowMeans.of(values, mask).over_all()


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

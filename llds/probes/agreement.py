"""How far a prediction agrees with what was measured: correlations and signs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_PAIRS = 3
"""Fewer pairs say nothing."""


@dataclass(frozen=True)
class Agreement:
    """Of pairs of predicted and measured values.

    Attributes:
        pairs: Number of pairs.
        pearson: Linear correlation, -1 to 1.
        spearman: Correlation of the ranks, -1 to 1.
        same_sign: Share of the pairs of one sign, 0-1.
    """

    pairs: int
    pearson: float
    spearman: float
    same_sign: float


def agreement(predicted: Sequence[float], measured: Sequence[float]) -> Agreement | None:
    """Compare predictions with measurements.

    Args:
        predicted: One value per pair.
        measured: As many.

    Returns:
        None for fewer than `MIN_PAIRS` pairs, or where one side is constant.
    """
    x, y = np.asarray(predicted, dtype=np.float64), np.asarray(measured, dtype=np.float64)
    if len(x) < MIN_PAIRS or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    same = float(np.mean(np.sign(x) == np.sign(y)))
    return Agreement(len(x), _correlation(x, y), _correlation(_ranks(x), _ranks(y)), same)


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    return float(np.corrcoef(x, y)[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 0; equal values share their mean rank."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    mean_ranks: NDArray[np.float64] = ends - (counts + 1) / 2
    return mean_ranks[which]

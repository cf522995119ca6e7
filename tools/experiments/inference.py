"""What chance explains: means of pairs, sign test, Fisher's exact test, bootstrap of pairs. All two-sided."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np

_RESAMPLES = 10_000


@dataclass(frozen=True)
class Difference:
    """Of pairs, second minus first.

    Attributes:
        n: Pairs.
        mean: Of the differences.
        error: Standard error of the mean.
        low: Lower end of the bootstrap's 95% interval of the mean.
        high: Its upper end.
        up: Pairs whose difference is above 0.
        down: Below 0.
        p: Of the sign test.
    """

    n: int
    mean: float
    error: float
    low: float
    high: float
    up: int
    down: int
    p: float


def paired_difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Compare pairs."""
    differences = [b - a for a, b in zip(first, second, strict=True)]
    up, down = sum(value > 0 for value in differences), sum(value < 0 for value in differences)
    draws = np.random.default_rng(0).choice(differences, (_RESAMPLES, len(differences))).mean(axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return Difference(
        n=len(differences),
        mean=mean(differences),
        error=standard_error(differences),
        low=float(low),
        high=float(high),
        up=up,
        down=down,
        p=sign_test(up, down),
    )


def standard_error(values: Sequence[float]) -> float:
    """Of the mean; NaN for a single value."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def sign_test(up: int, down: int) -> float:
    """Probability that a fair coin is as far from even, ties left out."""
    n, least = up + down, min(up, down)
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(least + 1)) / 2**n)


def fisher_test(first: int, of_first: int, second: int, of_second: int) -> float:
    """Probability of a table at most as likely as this one, where both shares are equal (Fisher's exact test)."""
    total, hits = of_first + of_second, first + second

    def likelihood(k: int) -> float:
        return math.comb(of_first, k) * math.comb(of_second, hits - k) / math.comb(total, hits)

    observed = likelihood(first) * (1 + 1e-9)
    possible = range(max(0, hits - of_second), min(of_first, hits) + 1)
    return min(1.0, sum(likelihood(k) for k in possible if likelihood(k) <= observed))

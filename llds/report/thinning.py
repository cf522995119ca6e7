"""Fewer points for long lines: every spike stays, the page stays small."""

from collections.abc import Sequence

import numpy as np

MOST_POINTS = 600
"""Of a line; screens have no more columns for one."""


def thinned(xs: Sequence[int], ys: Sequence[float], most: int = MOST_POINTS) -> tuple[list[int], list[float]]:
    """A line with at most so many points: first, last, and the lowest and highest of each stretch.

    Args:
        xs: Ascending.
        ys: As many.
        most: At least 4.
    """
    if len(xs) <= most:
        return list(xs), list(ys)
    values = np.asarray(ys)
    kept = {0, len(xs) - 1}
    for part in np.array_split(np.arange(len(xs)), (most - 2) // 2):
        kept |= {int(part[np.argmin(values[part])]), int(part[np.argmax(values[part])])}
    chosen = sorted(kept)
    return [xs[index] for index in chosen], [ys[index] for index in chosen]

"""Calibration: whether answers that the policy finds likely are right as often as it finds them likely."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

BINS = 10
_SIDE, _MARGIN = 320, 40


@dataclass(frozen=True)
class Bin:
    """Answers of about the same likelihood.

    Attributes:
        low: Least likelihood of the bin.
        high: Largest.
        n: Answers.
        likelihood: Their mean; 0 without any.
        correct: Share that is right; 0 without any.
    """

    low: float
    high: float
    n: int
    likelihood: float
    correct: float


@dataclass(frozen=True)
class Calibration:
    """How well likelihoods tell right from wrong.

    Attributes:
        n: Answers.
        expected_error: ECE: mean over answers of the gap between a bin's mean likelihood and its share of right ones
            (Guo et al. 2017, "On Calibration of Modern Neural Networks"), 0-1.
        brier: Mean squared difference of likelihood and 1 (right) or 0 (Brier 1950), 0-1.
        likelihood: Mean likelihood.
        correct: Share of right answers.
        bins: Of equal width, from 0 to 1.
    """

    n: int
    expected_error: float
    brier: float
    likelihood: float
    correct: float
    bins: tuple[Bin, ...]


def calibrate(likelihoods: Sequence[float], correct: Sequence[float], bins: int = BINS) -> Calibration:
    """Calibration of answers.

    Args:
        likelihoods: Of each answer, 0-1; at least one.
        correct: 1 for a right one, else 0.
        bins: How many.
    """
    pairs = list(zip(likelihoods, correct, strict=True))
    found = []
    for number in range(bins):
        inside = [pair for pair in pairs if min(int(pair[0] * bins), bins - 1) == number]
        means = [math.fsum(values) / len(inside) for values in zip(*inside, strict=True)] if inside else [0.0, 0.0]
        found.append(Bin(number / bins, (number + 1) / bins, len(inside), *means))
    return Calibration(
        n=len(pairs),
        expected_error=math.fsum(one.n * abs(one.likelihood - one.correct) for one in found) / len(pairs),
        brier=math.fsum((likelihood - right) ** 2 for likelihood, right in pairs) / len(pairs),
        likelihood=math.fsum(likelihoods) / len(pairs),
        correct=math.fsum(correct) / len(pairs),
        bins=tuple(found),
    )


def reliability_picture(found: Calibration) -> str:
    """A reliability diagram as SVG: share of right answers over likelihood; the line is perfect calibration.

    Args:
        found: What to draw. The area of a bin's circle is its share of the answers.
    """

    def at(x: float, y: float) -> tuple[float, float]:
        return _MARGIN + _SIDE * x, _MARGIN + _SIDE * (1 - y)

    (left, bottom), (right, top) = at(0, 0), at(1, 1)
    parts = [
        f'<rect x="{left}" y="{top}" width="{_SIDE}" height="{_SIDE}" fill="none" stroke="#888"/>',
        f'<line x1="{left}" y1="{bottom}" x2="{right}" y2="{top}" stroke="#888" stroke-dasharray="4"/>',
        f'<text x="{left}" y="{top - 12}">{found.n} answers, ECE {found.expected_error:.3f}, '
        f"Brier {found.brier:.3f}</text>",
        f'<text x="{left}" y="{bottom + 28}">likelihood of the answer, 0 to 1; upwards: share that is right</text>',
    ]
    for one in (one for one in found.bins if one.n):
        x, y = at(one.likelihood, one.correct)
        radius = 3 + 24 * math.sqrt(one.n / found.n)
        tip = f"{one.n} answers, likelihood {one.likelihood:.2f}, {100 * one.correct:.0f}% right"
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="#36c" fill-opacity="0.5">'
            f"<title>{tip}</title></circle>"
        )
    size = _SIDE + 2 * _MARGIN
    style = 'font-family="sans-serif" font-size="12"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{size}" height="{size}" {style}>'
    return "\n".join([head, *parts, "</svg>", ""])

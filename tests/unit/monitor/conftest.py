"""Made-up runs in our signals."""

import math
import random
from collections.abc import Callable

import pytest

Row = dict[str, float]


def healthy_rows(iterations: int = 80, seed: int = 0) -> list[Row]:
    """A run whose reward rises and holds while likelihood grows and the rest is calm noise."""
    noise = random.Random(seed)
    rows = []
    for at in range(iterations):
        learned = 1 - math.exp(-at / 20)
        correct = -0.6 + 0.1 * learned + noise.gauss(0, 0.02)
        rows.append(
            {
                "reward/mean": 0.3 + 0.25 * learned + noise.gauss(0, 0.03),
                "reward/informative_groups": 0.6 + noise.gauss(0, 0.05),
                "policy/entropy": 0.8 - 0.1 * learned + noise.gauss(0, 0.02),
                "policy/ratio_p99": math.exp(0.15 + noise.gauss(0, 0.05)),
                "policy/behavior_gap_mean": 1e-5 * math.exp(noise.gauss(0, 0.3)),
                "policy/log_likelihood_correct": correct,
                "policy/log_likelihood_incorrect": correct - 0.2 + noise.gauss(0, 0.02),
                "llds/displacement_correct": 0.01 + noise.gauss(0, 0.002),
                "llds/displacement_incorrect": -0.01 + noise.gauss(0, 0.002),
                "llds/lld_rate": 0.25 + noise.gauss(0, 0.04),
                "train/grad_norm": math.exp(noise.gauss(0, 0.1)),
                "train/learning_rate": 1e-6,
                "train/nonfinite_step": 0.0,
                "rollout/failed": 0.0,
                "rollout/answered": min(1.0, 0.98 + noise.gauss(0, 0.01)),
                "rollout/valid_action_rate": min(1.0, 0.98 + noise.gauss(0, 0.01)),
                "rollout/tool_calls": 1.2 + noise.gauss(0, 0.05),
                "rollout/first_action_match": 0.6 + noise.gauss(0, 0.02),
            }
        )
    return rows


def spiral_rows(start: int = 40, iterations: int = 80) -> list[Row]:
    """The paper's course: correct actions fall more and more, then gradient and entropy surge, then reward falls."""
    rows = healthy_rows(iterations)
    for age, row in enumerate(rows[start:]):
        speed = min(1.0, age / 15)
        row["llds/displacement_correct"] -= 0.04 * speed
        row["llds/lld_rate"] = min(1.0, row["llds/lld_rate"] + 0.6 * speed)
        late = max(0.0, min(1.0, (age - 10) / 12))
        row["policy/entropy"] *= 1 + late
        row["train/grad_norm"] *= 1 + 6 * late
        row["reward/mean"] *= 1 - 0.9 * max(0.0, min(1.0, (age - 14) / 12))
    return rows


@pytest.fixture
def healthy() -> Callable[..., list[Row]]:
    """Makes a healthy run."""
    return healthy_rows


@pytest.fixture
def spiral() -> Callable[..., list[Row]]:
    """Makes a run that collapses."""
    return spiral_rows

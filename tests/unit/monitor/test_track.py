"""Averages, noise, peaks and what luck explains of them, against hand-computed values."""

import json
import math
import random

import pytest

from llds.monitor.memory.track import WINDOW, Average, Track


def track(values: list[float], warmup: int = 5) -> Track:
    made = Track()
    for position, value in enumerate(values):
        made.add(position, value, warmup)
    return made


def test_an_average_is_right_from_its_first_value_on() -> None:
    average = Average(0.5)
    seen = []
    for value in (1.0, 2.0, 4.0):
        average.add(value, is_warm=True)
        seen.append(average.value)
    # 1;  (0.5 * 2 + 0.25 * 1) / 0.75;  (0.5 * 4 + 0.25 * 2 + 0.125 * 1) / 0.875
    assert seen == pytest.approx([1.0, 1.25 / 0.75, 2.625 / 0.875])
    assert (average.highest, average.lowest) == (seen[2], seen[0])


def test_extremes_do_not_come_from_the_warm_up() -> None:
    made = track([9.0, 0.0, 1.0, 1.0, 1.0, 1.0], warmup=5)
    assert made.fast.highest is not None
    assert made.fast.highest < 2.5
    assert made.slow.highest is None


def test_noise_is_about_the_standard_deviation_around_a_trend() -> None:
    noise = random.Random(0)
    values = [0.1 * at + noise.gauss(0, 2.0) for at in range(400)]
    estimates = [track(values[: at + WINDOW]).noise for at in range(0, 370, 10)]
    assert 1.8 < sum(estimates) / len(estimates) < 2.5  # the larger one of window and long run: a little high


def test_one_outlier_does_not_move_baseline_or_noise() -> None:
    values = [1.0, 1.2, 0.8, 1.0, 50.0, 1.2, 0.8, 1.0, 1.2, 0.8]
    made = track(values)
    assert made.center == 1.0
    assert made.noise < 0.5


def test_memory_is_constant_and_state_survives_json() -> None:
    made = track([math.sin(at) for at in range(500)])
    assert len(made.recent) == WINDOW
    assert len(made.baseline) == 5
    assert Track.restore(json.loads(json.dumps(made.state()))) == made

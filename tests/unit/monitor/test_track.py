"""What the detector remembers of a signal, what became of a run, and the page of all signals."""

import json
import math
import random
from collections import Counter
from pathlib import Path

import pytest

from llds.monitor import SIGNALS
from llds.monitor.hindsight import outcome
from llds.monitor.memory.track import WINDOW, Average, Track
from llds.monitor.signals import as_markdown


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


RISE = [0.3, 0.4, 0.5]


def test_a_run_that_holds_is_healthy() -> None:
    assert outcome([*RISE, *[0.6, 0.5] * 20]).kind == "healthy"


def test_a_slow_fall_is_dated_where_it_crossed_80_percent_for_good() -> None:
    rewards = [0.5] * 20 + [0.5 - 0.01 * at for at in range(1, 41)]
    found = outcome(rewards)
    assert (found.kind, found.is_cliff) == ("collapsed", False)
    # 0.5 - 0.01 (at - 19): below 0.4 from 30 on, below 0.325 from 37 on, below 0.25 from 45 on
    assert (found.fall, found.lost, found.deadline) == (30, 37, 45)


def test_a_dip_before_does_not_date_the_fall() -> None:
    rewards = [0.5] * 15 + [0.33] * 9 + [0.5] * 20 + [0.1] * 20
    assert outcome(rewards).fall == pytest.approx(44, abs=4)


def test_a_fall_within_three_iterations_is_a_cliff() -> None:
    assert outcome([0.5] * 30 + [0.05] * 20).is_cliff


def test_a_partial_fall_is_neither() -> None:
    assert outcome([0.5] * 20 + [0.35] * 20).kind == "between"


def test_a_collapse_that_never_halves_may_be_seen_until_the_end() -> None:
    found = outcome([0.5] * 20 + [0.3] * 20)
    assert (found.kind, found.deadline) == ("collapsed", 39)


DOCS = Path(__file__).parents[3] / "docs"


def test_names_are_unique_and_every_field_says_something() -> None:
    assert max(Counter(signal.name for signal in SIGNALS).values()) == 1
    assert all(signal.meaning and signal.unit and signal.healthy for signal in SIGNALS)


def test_the_page_is_the_table() -> None:
    assert (DOCS / "signals.md").read_text() == as_markdown()

"""The reward's falls: by its own noise and its own gain, in any unit; what is constant, and what is luck."""

import json
import random

import pytest

from llds.monitor.memory.reward import RewardWatch


def watched(values: list[float]) -> RewardWatch:
    watch = RewardWatch()
    for value in values:
        watch.add(value)
    return watch


def first_fall(values: list[float]) -> int | None:
    watch = RewardWatch()
    for at, value in enumerate(values):
        watch.add(value)
        if watch.falls:
            return at
    return None


def noisy(level: float, rows: int, spread: float, seed: int = 0) -> list[float]:
    noise = random.Random(seed)
    return [level + noise.gauss(0, spread) for _ in range(rows)]


@pytest.mark.parametrize("level", [0.45, -0.55, 0.0])
@pytest.mark.parametrize("seed", range(4))
def test_noise_around_any_level_is_no_fall(level: float, seed: int) -> None:
    assert first_fall(noisy(level, 300, 0.1, seed)) is None


@pytest.mark.parametrize(("factor", "shift"), [(1.0, 0.0), (7.0, -3.0), (0.01, 100.0), (1e6, 0.0)])
def test_a_fall_is_seen_at_the_same_row_in_any_unit(factor: float, shift: float) -> None:
    values = [*noisy(0.4, 30, 0.03), *noisy(0.1, 20, 0.03, 1)]
    assert first_fall([factor * value + shift for value in values]) == 33


def test_half_of_what_was_gained_must_be_lost() -> None:
    rise = [0.1 + 0.02 * at + one for at, one in enumerate(noisy(0, 30, 0.005))]
    assert first_fall([*rise, *noisy(0.5, 40, 0.005)]) is None  # a fifth of the gain, twenty times the noise
    assert first_fall([*rise, *noisy(0.3, 40, 0.005)]) is not None


def test_a_slow_decline_is_seen_in_noise_that_hides_it_row_by_row() -> None:
    noise = random.Random(3)
    values = [0.6 - 0.002 * max(0, at - 100) + noise.gauss(0, 0.12) for at in range(300)]
    found = first_fall(values)
    assert found is not None
    assert 150 < found < 300


def test_a_fall_ends_when_the_reward_is_back() -> None:
    values = [*noisy(0.8, 40, 0.02), *noisy(0.3, 10, 0.02, 1), *noisy(0.8, 12, 0.02, 2)]
    assert watched(values[:48]).falls
    assert not watched(values).falls


def test_a_fall_far_below_the_range_that_the_log_states_does_not_matter() -> None:
    values = [*noisy(0.50, 30, 0.001), *noisy(0.48, 20, 0.001, 1)]
    plain, bounded = RewardWatch(), RewardWatch()
    for value in values:
        plain.add(value)
        bounded.add(value, (-1.0, 1.0))
    assert (plain.falls, bounded.falls) == (True, False)


@pytest.mark.slow
def test_a_constant_reward_is_one_that_luck_does_not_explain() -> None:
    noise = random.Random(0)
    few = [
        noise.choice([0.0, 0.5, 1.0]) for _ in range(400)
    ]  # of two trajectories: the same again in one of three rows
    assert not any(watched(few[:at]).is_constant for at in range(100, 400, 7))
    assert watched([*noisy(0.5, 20, 0.05), *[0.2] * 5]).is_constant
    assert not watched([0.0] * 11).is_constant
    assert watched([0.0] * 12).is_constant


def test_a_value_that_came_up_before_is_not_constant_as_soon_as_a_new_one() -> None:
    few = [0.5, 0.25, 1.0, 0.25, 0.75, 0.25, 0.0, 0.25, 0.5, 1.0, 0.25, 0.5]
    assert watched([*few, *[0.3] * 6]).is_constant
    assert not watched([*few, *[0.25] * 6]).is_constant
    assert watched([*few, *[0.25] * 12]).is_constant


@pytest.mark.parametrize("stride", [1, 3, 5, 10])
def test_a_collapse_is_seen_in_every_row_and_in_every_tenth_and_health_in_none(stride: int) -> None:
    for seed in range(2):
        rise = [0.2 + 0.5 * min(1.0, at / 150) for at in range(300)]
        fall = [0.7 - 0.5 * min(1.0, at / 60) for at in range(150)]
        values = [value + luck for value, luck in zip([*rise, *fall], noisy(0.0, 450, 0.05, seed), strict=True)]
        for first in range(0, stride, 2):
            assert not any(watched(values[first:at:stride]).falls for at in range(200, 300, 20))
            assert watched(values[first::stride]).falls


def test_a_reward_at_its_peak_is_solved_and_not_constant() -> None:
    assert not watched([*[0.1 * at for at in range(11)], *[1.0] * 30]).is_constant


def test_the_state_survives_json() -> None:
    watch = watched(noisy(0.5, 60, 0.1))
    again = RewardWatch.restore(json.loads(json.dumps(watch.state())))
    assert again == watch
    assert RewardWatch.restore(json.loads(json.dumps(RewardWatch().state()))) == RewardWatch()

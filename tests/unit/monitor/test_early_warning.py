"""The rule of thumb, on made-up histories and on the recorded runs."""

import gzip
import json
from pathlib import Path

import pytest

from llds.monitor import early_warning
from llds.monitor.early_warning import ENTROPY, REWARD, moving_average

RUNS = Path(__file__).parents[4] / "shared" / "runs"
History = list[dict[str, float]]


def history(rewards: list[float], entropies: list[float]) -> History:
    return [{REWARD: reward, ENTROPY: entropy} for reward, entropy in zip(rewards, entropies, strict=True)]


def first_warning(run: History) -> int | None:
    return next((end - 1 for end in range(1, len(run) + 1) if early_warning(run[:end])), None)


UP, STEADY = [0.2, 0.3, 0.4, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5], [1.0] * 10


def test_reward_that_falls_while_entropy_rises_is_a_warning() -> None:
    found = early_warning(history([*UP, *[0.3] * 5], [*STEADY, *[1.4] * 5]))
    assert found is not None
    assert found.reward_share < 0.75
    assert found.entropy_ratio > 1.15
    assert f"{found.reward_share:.0%} of its peak" in found.message


def test_neither_a_small_fall_nor_entropy_alone_is_one() -> None:
    assert early_warning(history([*UP, *[0.45] * 5], [*STEADY, *[2.0] * 5])) is None
    assert early_warning(history([*UP, *[0.35] * 5], [*STEADY, *[1.0] * 5])) is None


def test_a_deep_fall_is_one_whatever_entropy_does() -> None:
    assert early_warning(history([*UP, *[0.1] * 5], [*STEADY, *[0.5] * 5])) is not None


def test_nothing_is_said_before_the_warm_up_is_over() -> None:
    run = history([0.9, 0.0, 0.0, 0.0, 0.0], [1.0, 9.0, 9.0, 9.0, 9.0])
    assert early_warning(run) is None
    assert early_warning(run, warmup=1) is not None


def test_iterations_without_a_signal_are_passed_over() -> None:
    run = history([*UP, *[0.3] * 5], [*STEADY, *[1.4] * 5])
    gaps: History = [row for full in run for row in (full, {REWARD: 0.0}, {ENTROPY: 5.0}, {})]
    assert early_warning(gaps) == early_warning(run)


def test_a_run_that_never_earned_anything_cannot_fall() -> None:
    assert early_warning(history([0.0] * 20, [1.0] * 20)) is None


def test_a_run_that_recovers_is_healthy_again() -> None:
    run = history([*UP, *[0.1] * 5, *[0.5] * 8], [1.0] * 23)
    assert first_warning(run) is not None
    assert early_warning(run) is None


def test_the_moving_average_weighs_the_newest_value() -> None:
    assert moving_average([1.0, 2.0, 4.0], 0.5) == [1.0, 1.5, 2.75]


def recorded() -> dict[str, History]:
    runs = {}
    for path in sorted(RUNS.glob("*.jsonl.gz")):
        rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
        wanted = [row for row in rows if row.get("reward") is not None and row.get("entropy") is not None]
        runs[path.name] = history([row["reward"] for row in wanted], [row["entropy"] for row in wanted])
    return runs


def halving(run: History) -> int | None:
    """First iteration at which the smoothed reward is below half of its maximum."""
    reward = moving_average([row[REWARD] for row in run], 0.3)
    return next((i for i in range(5, len(reward)) if reward[i] < max(reward[: i + 1]) / 2), None)


def ends_well(run: History) -> bool:
    reward = [row[REWARD] for row in run]
    return sum(reward[-10:]) / 10 >= 0.8 * max(moving_average(reward, 0.3))


@pytest.mark.skipif(not RUNS.is_dir(), reason="the recorded runs are not here (../shared/runs)")
def test_on_recorded_runs_it_sees_most_collapses_and_few_healthy_runs() -> None:
    runs = recorded()
    collapses = {name: at for name, run in runs.items() if (at := halving(run)) is not None}
    healthy = [name for name, run in runs.items() if name not in collapses and ends_well(run)]
    warned = {name: first_warning(run) for name, run in runs.items()}
    ahead = sorted(at - seen for name, at in collapses.items() if (seen := warned[name]) is not None and seen <= at)
    false_alarms = [name for name in healthy if warned[name] is not None]
    assert (len(runs), len(collapses), len(healthy)) == (96, 61, 24)
    assert len(ahead) == 55
    assert ahead[len(ahead) // 2] == 4
    assert len(false_alarms) == 3

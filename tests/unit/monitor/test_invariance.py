"""Verdicts do not depend on the unit of the reward, on how often a run logs, or on columns that are not there."""

from pathlib import Path

import pytest

from llds.monitor import diagnose, read_metrics

RECORDINGS = Path(__file__).parents[2] / "recordings"
PATHS = sorted(RECORDINGS.rglob("*.csv.gz"))[::9]
Rows = list[tuple[int, dict[str, float]]]


def levels(rows: Rows) -> list[tuple[str, str, str | None]]:
    return [(one.level, one.phase, one.cause) for one in diagnose(rows)]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
@pytest.mark.parametrize(("factor", "shift"), [(1.0, -1.0), (20.0, 3.0)])
def test_a_verdict_is_the_same_in_any_unit_of_the_reward(path: Path, factor: float, shift: float) -> None:
    rows = read_metrics(path).rows
    other = [
        (at, row | {"reward/mean": factor * row["reward/mean"] + shift} if "reward/mean" in row else row)
        for at, row in rows
    ]
    assert levels(other) == levels(rows)


def spaced(falls: bool, stride: int) -> Rows:
    """A run of 600 steps, of which every so manyth is logged."""
    import random

    noise = random.Random(1)
    rows: Rows = []
    for at in range(600):
        reward = 0.3 + 0.4 * min(1.0, at / 200) - (0.5 * min(1.0, max(0, at - 350) / 60) if falls else 0.0)
        rows.append((at, {"reward/mean": reward + noise.gauss(0, 0.03), "policy/entropy": 0.5 + noise.gauss(0, 0.02)}))
    return rows[::stride]


@pytest.mark.parametrize("stride", [1, 5, 10])
def test_a_verdict_is_the_same_for_every_nth_row(stride: int) -> None:
    assert "alarm" not in {one.level for one in diagnose(spaced(falls=False, stride=stride))}
    first = next(one.iteration for one in diagnose(spaced(falls=True, stride=stride)) if one.level == "alarm")
    assert 350 < first < 350 + 12 * stride + 40


@pytest.mark.parametrize("gone", ["policy/entropy", "train/grad_norm", "rollout/answered", "policy/ratio_p99"])
def test_an_alarm_about_the_reward_does_not_hang_on_another_column(gone: str) -> None:
    path = RECORDINGS / "A_lam0_s0.csv.gz"
    rows = [(at, {name: row[name] for name in row if name != gone}) for at, row in read_metrics(path).rows]
    assert diagnose(rows)[-1].level == "alarm"

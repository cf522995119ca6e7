"""What a log as a whole lets one say, and what a verdict must not depend on."""

import random
from pathlib import Path

import pytest

from llds.monitor import Verdict, diagnose, give_verdict, read_metrics


def judged(rows: list[dict[str, float]]) -> Verdict:
    table = list(enumerate(rows))
    return give_verdict(table, diagnose(table))


def rewards(rows: int, spread: float, gain: float = 0.0) -> list[dict[str, float]]:
    noise = random.Random(0)
    return [{"reward/mean": 0.4 + gain * min(1.0, at / 30) + noise.gauss(0, spread)} for at in range(rows)]


def test_three_rows_are_too_short_to_say() -> None:
    found = judged(rewards(3, 0.01))
    assert found.kind == "too_short"
    assert found.words == "too short to say: 3 rows with a reward, 12 are needed"


def test_a_log_of_every_fifth_iteration_is_told_in_iterations() -> None:
    table = [(5 * at, row) for at, row in enumerate(rewards(100, 0.2))]
    assert "within 7 rows (35 iterations)" in give_verdict(table, diagnose(table)).words
    few = table[:8]
    assert "8 rows with a reward (40 iterations)" in give_verdict(few, diagnose(few)).words


def test_a_log_without_a_reward_is_not_healthy() -> None:
    found = judged([{"train/loss": 0.5}] * 300)
    assert (found.kind, found.judged_from) == ("no_reward", ())
    assert found.basis == "nothing that it knows; no likelihood, so no early warning"


def test_noise_without_a_trend_is_said_with_what_would_show() -> None:
    found = judged(rewards(100, 0.2))
    assert found.kind == "no_trend"
    assert "rows scatter by 0." in found.words
    assert "only a fall of 0." in found.words


def test_a_run_too_noisy_to_judge_is_told_how_many_trajectories_it_takes() -> None:
    rows = rewards(200, 0.2, gain=0.2)
    assert judged(rows).kind == "too_noisy"
    for row in rows:
        row["rollout/trajectories"] = 8.0
    factor, total = (int("".join(c for c in word if c.isdigit())) for word in judged(rows).words.split()[-8::7])
    assert factor >= 4
    assert total >= 32


def test_a_run_that_has_learned_and_holds_is_quiet_and_says_what_it_was_judged_from() -> None:
    rows = [row | {"policy/entropy": 0.5, "rollout/action_cut": 0.0} for row in rewards(60, 0.02, gain=0.4)]
    found = judged(rows)
    assert found.kind == "quiet"
    assert found.basis == "reward, entropy, cut responses; no likelihood, so no early warning"
    assert "early" not in judged([row | {"llds/lld_rate": 0.2} for row in rows]).basis


def test_a_reward_that_stands_still_is_said_before_it_is_an_alarm() -> None:
    few = random.Random(0)
    rows = [{"reward/mean": few.choice((0.0, 0.0, 0.25))} for _ in range(40)] + [{"reward/mean": 0.0}] * 8
    rows[39] = {"reward/mean": 0.25}
    found = judged(rows)
    assert found.kind == "too_noisy"
    assert found.words.endswith("; reward is 0 in each of the last 8 rows")
    assert "in each" not in judged(rows[:44]).words
    assert judged(rows + rows[-1:] * 12).kind == "alarm"


def test_trouble_comes_before_all_else() -> None:
    assert judged([{"reward/mean": float("nan"), "policy/entropy": 0.1}] * 5).kind == "alarm"


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


@pytest.mark.parametrize(
    ("run", "kinds"),
    [("A_lam0_s0", ("alarm", "alarm", "too_short")), ("e4_lr5e4_n2_l0", ("quiet", "no_trend", "too_short"))],
)
def test_fewer_rows_of_a_training_say_the_same_or_that_they_are_too_few(run: str, kinds: tuple[str, ...]) -> None:
    for stride, kind in zip((1, 5, 10), kinds, strict=True):
        rows = read_metrics(RECORDINGS / f"{run}.csv.gz").rows[::stride]
        assert give_verdict(rows, diagnose(rows)).kind == kind, stride


@pytest.mark.parametrize("gone", ["policy/entropy", "train/grad_norm", "rollout/answered", "policy/ratio_p99"])
def test_an_alarm_about_the_reward_does_not_hang_on_another_column(gone: str) -> None:
    path = RECORDINGS / "A_lam0_s0.csv.gz"
    rows = [(at, {name: row[name] for name in row if name != gone}) for at, row in read_metrics(path).rows]
    assert diagnose(rows)[-1].level == "alarm"

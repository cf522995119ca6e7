"""What a log as a whole lets one say, and from what."""

import random

from llds.monitor import Verdict, diagnose, give_verdict


def judged(rows: list[dict[str, float]]) -> Verdict:
    table = list(enumerate(rows))
    return give_verdict(table, diagnose(table))


def rewards(rows: int, spread: float, gain: float = 0.0) -> list[dict[str, float]]:
    noise = random.Random(0)
    return [{"reward/mean": 0.4 + gain * min(1.0, at / 30) + noise.gauss(0, spread)} for at in range(rows)]


def test_three_rows_are_too_short_to_say() -> None:
    found = judged(rewards(3, 0.01))
    assert found.kind == "too_short"
    assert found.words == "too short to say: 3 rows with a reward, it takes 12"


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


def test_trouble_comes_before_all_else() -> None:
    assert judged([{"reward/mean": float("nan"), "policy/entropy": 0.1}] * 5).kind == "alarm"

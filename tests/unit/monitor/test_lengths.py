"""Responses that run to the limit are named; what moved first is told with its step and its values."""

import random
from typing import Any

from llds.monitor import Diagnosis, diagnose

# Of a public GRPO run of a 7B model by TRL: reward, mean completion length, share of cut completions, from row 25 on
PUBLIC = [
    (0.85, 244.0, 0.0), (0.725, 258.0, 0.0), (1.0, 245.0, 0.0), (0.85, 243.0, 0.03), (0.9, 283.0, 0.08),
    (0.875, 279.0, 0.15), (0.825, 321.0, 0.2), (0.825, 512.0, 1.0), (0.725, 512.0, 1.0), (0.75, 512.0, 1.0),
    (0.7, 512.0, 1.0), (0.65, 512.0, 1.0), (0.775, 512.0, 1.0), (0.775, 512.0, 1.0), (0.98, 512.0, 1.0),
]  # fmt: skip


def run(tail: list[tuple[float, float, float]], limit: bool = True) -> list[Diagnosis]:
    noise = random.Random(0)
    head = [(0.87 + noise.gauss(0, 0.08), 250 + noise.gauss(0, 10), abs(noise.gauss(0, 0.01))) for _ in range(25)]
    names = ("reward/mean", "rollout/action_tokens", "rollout/action_cut")
    rows: list[dict[str, Any]] = [dict(zip(names, values, strict=True)) for values in head + tail]
    if not limit:
        for row in rows:
            del row["rollout/action_cut"]
    return diagnose(enumerate(rows, 1))


def test_an_explosion_of_lengths_is_a_warning_while_the_reward_holds() -> None:
    found = run(PUBLIC)
    first = next(one for one in found if one.level == "warning")
    assert (first.iteration, first.cause) == (33, "length_explosion")
    assert "response length 254 until iteration 32 (reward 0.85), 405 at last" in first.evidence[0]
    last = found[-1]
    assert (last.level, last.cause) == ("warning", "length_explosion")
    assert "share of cut responses 0.015 until iteration 31" in last.moved[0]


def test_it_is_seen_by_the_length_alone_too() -> None:
    found = run([(0.87 + 0.05 * (at % 3), 600.0, 0.0) for at in range(8)], limit=False)
    assert found[-1].cause == "length_explosion"


def test_lengths_that_grow_with_the_reward_are_none() -> None:
    slow = [(0.87 + 0.05 * (at % 3), 250.0 * 1.01**at, 0.001 * at) for at in range(150)]
    assert {one.level for one in run(slow)} <= {"none", "note"}


def test_a_limit_that_is_too_small_from_the_start_is_no_explosion() -> None:
    rows = [{"reward/mean": 0.1 + 0.01 * at, "rollout/action_cut": 0.95} for at in range(60)]
    assert {one.level for one in diagnose(enumerate(rows))} == {"none"}


def test_without_likelihood_no_spiral_is_named_and_what_moved_first_is_told() -> None:
    noise = random.Random(1)
    rows = []
    for at in range(60):
        late = max(0, at - 30)
        rows.append(
            {
                "reward/mean": max(0.0, 0.8 - 0.08 * max(0, late - 4)) + noise.gauss(0, 0.02),
                "policy/entropy": 0.2 * (1 + 0.3 * late) * noise.uniform(0.95, 1.05),
                "train/grad_norm": noise.uniform(0.9, 1.1) * (1 + late),
            }
        )
    last = diagnose(enumerate(rows))[-1]
    assert (last.level, last.cause) == ("alarm", "unknown")
    assert last.moved[0].startswith(("entropy 0.2", "gradient norm"))
    assert "until iteration 3" in last.moved[0]


def test_a_gap_to_the_sampler_that_rises_with_the_entropy_is_a_consequence() -> None:
    noise = random.Random(1)
    rows = []
    for at in range(50):
        late = max(0, at - 30)
        rows.append(
            {
                "reward/mean": max(0.0, 0.8 - 0.15 * late) + noise.gauss(0, 0.02),
                "policy/entropy": 0.2 * (1 + late) * noise.uniform(0.95, 1.05),
                "policy/behavior_gap_mean": 0.007 * (1 + 3 * late) * noise.uniform(0.9, 1.1),
            }
        )
    found = diagnose(enumerate(rows))
    assert found[-1].level == "alarm"
    assert "stale_weights" not in {one.cause for one in found}

"""Faults, put into the metrics of a healthy run: what each of them does to the signals, from an iteration on.

A stand-in for trainings with the fault switched on: recordings of those, in a folder named after the cause, can replace
any of these (`evaluate_detector.py`). Each function gets the rows of a run and the position at which the fault begins.
"""

import math
import random
from collections.abc import Callable

Rows = list[dict[str, float]]
NAMES_OF_SIGNALS = {
    "reward": "reward/mean",
    "mixed": "reward/informative_groups",
    "all_correct": "reward/all_correct_groups",
    "entropy": "policy/entropy",
    "ratio": "policy/ratio_p99",
    "gap": "policy/behavior_gap_mean",
    "probe": "policy/probe_log_likelihood",
    "correct": "policy/log_likelihood_correct",
    "incorrect": "policy/log_likelihood_incorrect",
    "moved": "llds/displacement_correct",
    "lld": "llds/lld_rate",
    "grad": "train/grad_norm",
    "loss": "train/loss",
    "length": "rollout/action_tokens",
    "lr": "train/learning_rate",
    "nonfinite": "train/nonfinite_step",
    "failed": "rollout/failed",
    "tool_failures": "rollout/tool_failures",
    "answered": "rollout/answered",
    "valid": "rollout/valid_action_rate",
    "cut": "rollout/action_cut",
    "searches": "rollout/tool_calls",
    "hits": "retrieval/hit_rate",
    "repeated": "data/repeated_prompts",
}


def scale(row: dict[str, float], **factors: float) -> None:
    """Multiply signals that the row has."""
    for short, factor in factors.items():
        if (name := NAMES_OF_SIGNALS[short]) in row:
            row[name] *= factor


def put(row: dict[str, float], **values: float) -> None:
    """Set signals."""
    row |= {NAMES_OF_SIGNALS[short]: value for short, value in values.items()}


def spiral(rows: Rows, start: int, noise: random.Random) -> None:
    """Likelihood of correct actions decays ever faster; then gradient, ratio and entropy surge and reward falls."""
    for age, row in enumerate(rows[start:]):
        speed = min(1.0, age / 25)
        if "policy/probe_log_likelihood" in row:
            row["policy/probe_log_likelihood"] -= 0.5 * age * speed
        put(row, lld=min(0.95, row.get("llds/lld_rate", 0.3) + 0.5 * speed), moved=-0.02 * speed)
        scale(row, entropy=1 + speed, ratio=1 + speed, grad=1 + 4 * speed, reward=max(0.05, 1 - 1.2 * speed * speed))


def mismatch(rows: Rows, start: int, noise: random.Random) -> None:
    """The sampler works in another precision or law: a constant gap from the first iteration."""
    for row in rows:
        put(row, gap=0.05 * noise.uniform(0.8, 1.2))


def stale(rows: Rows, start: int, noise: random.Random) -> None:
    """Updates no longer reach the sampler: it agreed, and every update takes the trainer further away."""
    for age, row in enumerate(rows):
        put(row, gap=noise.uniform(0.8, 1.2) * (1e-5 + 0.003 * max(0, age - start)))


def outage(rows: Rows, start: int, noise: random.Random) -> None:
    """The retriever fails for a third of the trajectories, which are left out."""
    for age, row in enumerate(rows):
        put(row, failed=noise.uniform(0.25, 0.45) if age >= start else 0.0)


def silent_outage(rows: Rows, start: int, noise: random.Random) -> None:
    """The retriever answers with nothing: no search gets a result, and reward falls at once."""
    for age, row in enumerate(rows):
        put(row, hits=noise.uniform(0.0, 0.05) if age >= start else noise.uniform(0.6, 0.7))
    for row in rows[start:]:
        scale(row, searches=0.05, reward=0.25, mixed=0.4)


def constant(rows: Rows, start: int, noise: random.Random) -> None:
    """The reward function gives 0 to everything: no advantages, no gradient."""
    for row in rows[start:]:
        put(row, reward=0.0, mixed=0.0, all_correct=0.0, grad=1e-4, ratio=1.0)
        for name in ("correct", "moved", "lld"):
            row.pop(NAMES_OF_SIGNALS[name], None)


def generous(rows: Rows, start: int, noise: random.Random) -> None:
    """The reward function gives 1 to everything."""
    for row in rows[start:]:
        put(
            row,
            reward=1.0,
            mixed=0.0,
            all_correct=1.0,
            grad=1e-4,
            ratio=1.0,
            correct=row.get(NAMES_OF_SIGNALS["incorrect"], -0.5),
        )
        row.pop(NAMES_OF_SIGNALS["incorrect"], None)


def coin(rows: Rows, start: int, noise: random.Random) -> None:
    """The reward is a coin: "correct" responses are no likelier than others, and the policy loses what it knew."""
    for row in rows:
        if "policy/log_likelihood_incorrect" in row:
            both = row["policy/log_likelihood_incorrect"]
            put(row, correct=both * noise.uniform(0.9, 1.1), incorrect=both * noise.uniform(0.9, 1.1))
        put(row, reward=noise.uniform(0.42, 0.58), mixed=noise.uniform(0.85, 1.0))


def format_break(rows: Rows, start: int, noise: random.Random) -> None:
    """A stop string or template changed: most actions cannot be read."""
    for age, row in enumerate(rows):
        good = noise.uniform(0.3, 0.4) if age >= start else noise.uniform(0.95, 1.0)
        put(row, answered=good, valid=good, cut=1 - good)
        if age >= start:
            scale(row, reward=0.35)


def blow_up(rows: Rows, start: int, noise: random.Random) -> None:
    """The learning rate is ten times too high from now on."""
    for age, row in enumerate(rows[start:]):
        scale(row, lr=10.0, grad=20.0 if age < 4 else 5.0, ratio=4.0, entropy=2.0, reward=0.3 if age < 2 else 0.05)
        put(row, lld=0.95, moved=-0.3)


def repeating(rows: Rows, start: int, noise: random.Random) -> None:
    """The loader gives the same prompts again."""
    for age, row in enumerate(rows):
        put(row, repeated=noise.uniform(0.9, 1.0) if age >= start else 0.0)


def no_numbers(rows: Rows, start: int, noise: random.Random) -> None:
    """Loss and gradient are NaN in every second step, the rest goes on as if nothing were wrong."""
    for age, row in enumerate(rows[start:]):
        if age % 2 == 0:
            put(row, loss=math.nan, grad=math.nan)


def explosion(rows: Rows, start: int, noise: random.Random) -> None:
    """Responses run on to the limit within a few iterations; the reward hardly falls."""
    for age, row in enumerate(rows):
        share = min(1.0, max(0, age - start) / 4)
        put(row, length=(200 + 312 * share) * noise.uniform(0.97, 1.03), cut=share * noise.uniform(0.95, 1.0))


FAULTS: dict[str, tuple[str, Callable[[Rows, int, random.Random], None]]] = {
    "likelihood spiral": ("lld_spiral", spiral),
    "other precision in the sampler": ("sampler_mismatch", mismatch),
    "updates do not reach the sampler": ("stale_weights", stale),
    "retriever fails": ("retriever_outage", outage),
    "retriever returns nothing": ("retriever_outage", silent_outage),
    "reward always 0": ("broken_reward", constant),
    "reward always 1": ("broken_reward", generous),
    "reward is a coin": ("broken_reward", coin),
    "stop string changed": ("format_break", format_break),
    "learning rate x 10": ("optimizer_blow_up", blow_up),
    "prompts come back": ("data_repeating", repeating),
    "loss is not a number": ("not_finite", no_numbers),
    "responses run to the limit": ("length_explosion", explosion),
}
"""What is done, the cause that must be named, and the function."""

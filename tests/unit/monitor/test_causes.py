"""Each fault, put into a healthy run, is named; what a collapse brings with it is not mistaken for its cause."""

import importlib.util
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from llds.monitor import diagnose
from llds.monitor.advice import Settings, advise
from llds.monitor.causes import NAMES
from llds.monitor.symptoms.faults import FAULTS
from llds.monitor.symptoms.instability import SIGNS
from llds.monitor.symptoms.votes import VOTES

Row = dict[str, float]
Make = Callable[..., list[Row]]


def load_faults() -> ModuleType:
    """The script's module, by its path: tools are no package."""
    path = Path(__file__).parents[3] / "tools" / "detector_faults.py"
    spec = importlib.util.spec_from_file_location("detector_faults", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


INJECTED = load_faults().FAULTS


def causes(rows: list[Row], start: int = 0) -> Counter[str | None]:
    """Causes named from an iteration on, at the highest level that is reached."""
    said = diagnose(enumerate(rows))[start:]
    level = "alarm" if any(one.level == "alarm" for one in said) else "warning"
    return Counter(one.cause for one in said if one.level == level)


@pytest.mark.parametrize("fault", INJECTED)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_fault_in_a_healthy_run_is_named(fault: str, seed: int, healthy: Make) -> None:
    cause, inject = INJECTED[fault]
    rows = healthy(90, seed)
    inject(rows, 45, random.Random(seed))
    named = causes(rows, 45)
    assert named.most_common(1)[0][0] == cause
    assert named[cause] > 0.8 * named.total()


@pytest.mark.parametrize("fault", INJECTED)
def test_the_first_word_about_a_fault_comes_soon(fault: str, healthy: Make) -> None:
    cause, inject = INJECTED[fault]
    rows = healthy(90)
    inject(rows, 45, random.Random(0))
    first = next(one.iteration for one in diagnose(enumerate(rows)) if one.level != "none" and one.cause == cause)
    assert first <= 45 + {"lld_spiral": 20, "stale_weights": 10}.get(cause, 5)


def test_every_cause_has_a_fault_a_name_and_advice() -> None:
    assert {cause for cause, _ in INJECTED.values()} == set(NAMES) - {"unknown"}
    assert all(advise(cause, Settings()) for cause in NAMES)


def test_what_is_on_is_not_advised() -> None:
    assert "add LLDS" in advise("lld_spiral", Settings(llds=False))
    assert "add LLDS" not in advise("lld_spiral", Settings(llds=True))
    assert "importance sampling" in advise("sampler_mismatch", Settings())
    assert "importance sampling" not in advise("sampler_mismatch", Settings(importance_sampling=True))
    config = {"model": {"llds_penalty": {"class_path": "x", "init_args": {"coefficient": 0.1}}}}
    assert Settings.from_config(config) == Settings(llds=True, importance_sampling=False, gradient_clipping=True)
    assert Settings.from_config({"model": {"llds_penalty": None}}).llds is False
    of_a_run = {"model": {"class_path": "llds.modules.SearchAgentModule", "init_args": config["model"]}}
    assert Settings.from_config(of_a_run) == Settings.from_config(config), "as config.yaml in a run's folder has it"
    assert Settings.from_config({}) == Settings()


def test_symptoms_have_names_of_their_own() -> None:
    names = [check.name for check in (*VOTES, *SIGNS, *FAULTS)]
    names += ["reward_falls", "unstable", "collapsed", "warning", "alarm"]  # states of the detector itself
    assert len(names) == len(set(names))


def test_what_a_spiral_brings_with_it_is_not_its_cause(spiral: Make) -> None:
    """At its end nothing can be parsed, nothing is searched, every reward is 0 and nothing is learned from."""
    rows = spiral(iterations=100)
    for row in rows[66:]:
        row |= {"rollout/answered": 0.1, "rollout/valid_action_rate": 0.2, "rollout/tool_calls": 0.05}
    for row in rows[70:]:
        row |= {"reward/mean": 0.0, "reward/informative_groups": 0.0}
        del row["llds/displacement_correct"], row["llds/lld_rate"], row["policy/log_likelihood_correct"]
    assert causes(rows).most_common(1)[0][0] == "lld_spiral"


def lose_form(rows: list[Row], start: int, iterations: int) -> None:
    """Well-formed actions go down to a third of theirs, in a number of iterations, and reward with them."""
    for age, row in enumerate(rows[start:], 1):
        left = 1 - 0.65 * min(1.0, age / iterations)
        for name in ("rollout/answered", "rollout/valid_action_rate", "reward/mean"):
            row[name] = row.get(name, 0.95) * left


@pytest.mark.parametrize(("iterations", "cause"), [(1, "format_break"), (2, "format_break"), (12, "lld_spiral")])
def test_a_spiral_in_which_form_is_lost_slowly_is_no_break_of_the_format(
    iterations: int, cause: str, healthy: Make
) -> None:
    rows = healthy(70)
    lose_form(rows, 40, iterations)
    for row in rows[44:]:
        row |= {"llds/lld_rate": 0.9, "llds/displacement_correct": -0.05}
    assert causes(rows).most_common(1)[0][0] == cause


def test_answers_that_are_all_lost_at_once_are_a_break_although_most_actions_can_be_read(healthy: Make) -> None:
    rows = healthy(70)
    for age, row in enumerate(rows[40:]):
        row |= {"rollout/answered": 0.02, "rollout/valid_action_rate": 0.8}
        row["reward/mean"] *= 0.05
        row["policy/entropy"] *= 1.5 if age >= 2 else 1.0
    assert causes(rows).most_common(1)[0][0] == "format_break"


def test_form_that_is_lost_slowly_while_likelihood_holds_is_a_break_of_the_format(healthy: Make) -> None:
    """As when responses grow until more and more of them are cut."""
    rows = healthy(70)
    lose_form(rows, 40, 12)
    named = causes(rows)
    assert named.most_common(1)[0][0] == "format_break"


@pytest.mark.parametrize(("asked", "cause"), [(1.0, "retriever_outage"), (0.1, "lld_spiral"), (0.0, "lld_spiral")])
def test_a_policy_that_asks_less_is_no_outage_of_the_retriever(asked: float, cause: str, healthy: Make) -> None:
    rows = healthy(70)
    for at, row in enumerate(rows):
        row |= {"retrieval/queries": 40.0, "retrieval/hit_rate": 0.6}
        if at >= 40:
            row["retrieval/queries"] *= asked
            for name in ("rollout/tool_calls", "retrieval/hit_rate"):
                row[name] *= 0.1
            for name in ("reward/mean", "llds/lld_rate"):
                row[name] *= 0.3 if name == "reward/mean" else 3.0
    assert causes(rows).most_common(1)[0][0] == cause


@pytest.mark.parametrize(("start", "cause"), [(3, "unknown"), (20, "retriever_outage")])
def test_nothing_is_blamed_for_what_broke_with_all_else_within_the_warm_up(
    start: int, cause: str, healthy: Make
) -> None:
    rows = healthy(40)
    for row in rows[start:]:
        row["reward/mean"] *= 0.1
        row["rollout/tool_calls"] *= 0.05
        row["policy/entropy"] *= 2.0
    assert causes(rows).most_common(1)[0][0] == cause
    assert start > 5 or set(causes(rows)) == {cause}


def test_a_coin_is_the_cause_although_the_policy_is_unstable_before_it_can_be_seen(healthy: Make) -> None:
    rows = healthy(40)
    noise = random.Random(0)
    for at, row in enumerate(rows):
        for name in ("policy/log_likelihood_correct", "policy/log_likelihood_incorrect"):
            row[name] = -0.6 + noise.gauss(0, 0.02)
        if at >= 5:
            row["policy/entropy"] *= 1.5
            row["policy/ratio_p99"] = 2.5
    assert causes(rows).most_common(1)[0][0] == "broken_reward"


def test_a_solved_task_is_not_a_broken_reward(healthy: Make) -> None:
    rows = healthy(100)
    for age, row in enumerate(rows[40:]):
        done = min(1.0, age / 30)
        row["reward/mean"] += (1.0 - row["reward/mean"]) * done
        row["reward/informative_groups"] *= 1 - done
        row["reward/all_correct_groups"] = done
    for row in rows[70:]:
        row["reward/mean"] -= 0.02  # one question has no right answer
    assert {one.level for one in diagnose(enumerate(rows))} == {"none"}


def test_a_reward_that_is_constant_from_the_start_is_an_alarm(healthy: Make) -> None:
    rows = healthy(20)
    for row in rows:
        row |= {"reward/mean": 0.0, "reward/informative_groups": 0.0}
    said = diagnose(enumerate(rows))
    assert said[9].level == "none"
    found = said[12]
    assert (found.level, found.cause) == ("alarm", "broken_reward")
    assert "reward is 0" in found.evidence[0]


def test_a_spiral_in_which_right_and_wrong_fall_together_is_not_a_broken_reward(healthy: Make) -> None:
    rows = healthy(80)
    for row in rows[50:]:
        row["reward/mean"] *= 0.4
    for row in rows[40:]:
        row |= {"llds/displacement_correct": -0.05, "llds/displacement_incorrect": -0.05, "llds/lld_rate": 0.9}
    assert causes(rows).most_common(1)[0][0] == "lld_spiral"


@pytest.mark.parametrize("lag", [None, 1.0])
def test_a_gap_is_no_fault_where_iterations_overlap(lag: float | None, healthy: Make) -> None:
    rows = healthy(60)
    for at, row in enumerate(rows):
        row["policy/behavior_gap_mean"] *= 5000 if at else 1
        if lag is not None:
            row["rollout/weight_lag"] = lag if at else 0.0
    said = Counter(one.cause for one in diagnose(enumerate(rows)) if one.level != "none")
    assert (said["sampler_mismatch"] > 0) is (lag is None)

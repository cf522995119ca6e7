"""Signals of the policy, against arithmetic by hand; undefined ones are left out."""

import math

import pytest
import torch

from llds.metrics import policy_metrics

NAN = math.nan
ACTIONS = torch.tensor([[-1, 0, 0, -1, 1], [-1, 0, 0, 0, -1], [-1, 0, -1, -1, -1]])
REWARDS = torch.tensor([1.0, 1.0, 0.0])
ANSWERED = torch.tensor([True, False, True])
OLD = torch.tensor([[NAN, -1.0, -2.0, NAN, -3.0], [NAN, -1.0, -1.0, -1.0, NAN], [NAN, -4.0, NAN, NAN, NAN]])
NEW = torch.tensor([[NAN, -0.5, -2.1, NAN, -3.2], [NAN, -1.5, -1.0, -0.8, NAN], [NAN, -3.0, NAN, NAN, NAN]])
BEHAVIOR = torch.tensor([[NAN, -1.0, -2.5, NAN, -3.0], [NAN, -1.0, -1.0, -1.1, NAN], [NAN, -4.0, NAN, NAN, NAN]])
REFERENCE = torch.tensor([[NAN, -1.0, -1.0, NAN, -3.0], [NAN, -1.0, -1.0, -1.0, NAN], [NAN, -4.0, NAN, NAN, NAN]])
ENTROPY = torch.tensor([[NAN, 1.0, 2.0, NAN, 3.0], [NAN, 0.0, 0.0, 3.0, NAN], [NAN, 6.0, NAN, NAN, NAN]])


def signals(**changes: torch.Tensor) -> dict[str, float]:
    tensors = {
        "old_log_probs": OLD,
        "new_log_probs": NEW,
        "behavior_log_probs": BEHAVIOR,
        "entropy": ENTROPY,
        "action_index": ACTIONS,
        "answered": ANSWERED,
        "correct": REWARDS > 0,
    }
    return policy_metrics(**{**tensors, **changes})


def test_how_the_policy_moved_by_hand() -> None:
    metrics = signals(ref_log_probs=REFERENCE)
    ratios = sorted(math.exp(change) for change in (0.5, -0.1, -0.2, -0.5, 0.0, 0.2, 1.0))
    assert metrics == pytest.approx(
        {
            "policy/entropy": (2 + 1 + 6) / 3,
            "policy/entropy_correct": (2 + 1) / 2,
            "policy/entropy_incorrect": 6.0,
            "policy/entropy_first": (1.5 + 1) / 2,
            "policy/entropy_answer": (3 + 6) / 2,
            "policy/ratio_max": math.exp(1.0),
            "policy/ratio_min": math.exp(-0.5),
            "policy/ratio_p99": ratios[-2] + 0.94 * (ratios[-1] - ratios[-2]),  # 0.99 * 6 = 5.94
            "policy/behavior_gap_mean": 0.6 / 7,
            "policy/behavior_gap_max": 0.5,
            # old - behavior: 0.5, 0.1, and five times 0
            "policy/behavior_kl": (math.exp(0.5) - 1.5 + math.exp(0.1) - 1.1) / 7,
            "policy/behavior_ess": (math.exp(0.5) + math.exp(0.1) + 1) ** 2 / (math.e + math.exp(0.2) + 1) / 3,
            "policy/log_likelihood_correct": (-2 - 1) / 2,
            "policy/log_likelihood_incorrect": -4.0,
            "policy/log_likelihood_correct_first": (-1.5 - 1.0) / 2,
            "policy/log_likelihood_correct_answer": -3.0,
            "policy/log_likelihood_incorrect_answer": -4.0,
            "policy/nll_round_0": (1.5 + 1 + 4) / 3,
            "policy/nll_round_1": 3.0,
            "policy/kl_ref": (math.e - 2) / 7,  # d = 1 on one token: e^1 - 1 - 1
        },
        abs=1e-6,
    )


def test_actions_of_many_rounds_are_taken_together() -> None:
    index = torch.tensor([[0, 1, 2, 3, 4]])
    log_probs = torch.tensor([[-1.0, -2.0, -3.0, -4.0, -6.0]])
    same = dict.fromkeys(("old_log_probs", "new_log_probs", "behavior_log_probs", "entropy"), log_probs)
    one = {"action_index": index, "correct": torch.tensor([True]), "answered": torch.tensor([True])}
    found = policy_metrics(**same, **one)
    assert [found[f"policy/nll_round_{rounds}"] for rounds in (0, 1, 2, "3_up")] == [1.0, 2.0, 3.0, 5.0]
    parts = [found[f"policy/log_likelihood_correct_{kind}"] for kind in ("first", "later", "answer")]
    assert parts == [-1.0, -3.0, -6.0]
    assert found["policy/log_likelihood_correct"] == pytest.approx(-16 / 5)


def test_the_effective_sample_size_of_samples_of_the_old_policy_is_all_of_them() -> None:
    assert signals(behavior_log_probs=OLD)["policy/behavior_ess"] == pytest.approx(1.0)
    far = torch.where(ACTIONS >= 0, OLD - torch.tensor([[1000.0], [0.0], [0.0]]), NAN)
    assert signals(behavior_log_probs=far)["policy/behavior_ess"] == pytest.approx(1 / 3)


def test_without_a_correct_trajectory_its_signals_are_left_out() -> None:
    metrics = signals(correct=torch.zeros(3, dtype=torch.bool))
    assert not {key for key in metrics if "correct" in key.split("_")}
    assert "policy/log_likelihood_incorrect" in metrics
    assert all(math.isfinite(value) for value in metrics.values())


def test_without_actions_there_are_no_signals() -> None:
    assert signals(action_index=torch.full_like(ACTIONS, -1)) == {}


def test_a_policy_far_from_its_reference_has_a_bounded_kl() -> None:
    metrics = signals(ref_log_probs=OLD + 500.0)
    assert metrics["policy/kl_ref"] == pytest.approx(10.0)


def test_padding_and_row_order_change_nothing() -> None:
    padded = {
        "old_log_probs": OLD,
        "new_log_probs": NEW,
        "behavior_log_probs": BEHAVIOR,
        "entropy": ENTROPY,
    }
    order = torch.tensor([2, 0, 1])
    wide = {name: torch.cat([value, torch.full((3, 4), NAN)], dim=1)[order] for name, value in padded.items()}
    index = torch.cat([ACTIONS, torch.full((3, 4), -1)], dim=1)[order]
    moved = signals(**wide, action_index=index, correct=REWARDS[order] > 0, answered=ANSWERED[order])
    assert moved == pytest.approx(signals())

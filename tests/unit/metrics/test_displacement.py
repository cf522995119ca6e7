"""Definition 4.1 against arithmetic by hand."""

import math

import pytest
import torch

from llds.metrics import displacement_metrics

NAN = math.nan
ACTIONS = torch.tensor([[-1, 0, 0, -1, 1], [-1, 0, 0, 0, -1], [-1, 0, -1, -1, -1]])
REWARDS = torch.tensor([1.0, 1.0, 0.0])
ANSWERED = torch.tensor([True, False, True])
BEFORE = torch.tensor([[NAN, -1.0, -2.0, NAN, -3.0], [NAN, -1.0, -1.0, -1.0, NAN], [NAN, -4.0, NAN, NAN, NAN]])
AFTER = torch.tensor([[NAN, -0.5, -2.1, NAN, -3.2], [NAN, -1.5, -1.0, -0.8, NAN], [NAN, -3.0, NAN, NAN, NAN]])


def signals(**changes: torch.Tensor) -> dict[str, float]:
    tensors = {"before": BEFORE, "after": AFTER, "action_index": ACTIONS, "answered": ANSWERED, "rewards": REWARDS}
    return displacement_metrics(**{**tensors, **changes})


def test_the_change_by_hand() -> None:
    assert signals() == pytest.approx(
        {
            "llds/displacement_correct": (0.2 / 3 - 0.3 / 3) / 2,
            "llds/displacement_correct_first": (0.4 / 2 - 0.3 / 3) / 2,
            "llds/displacement_correct_answer": -0.2,
            "llds/displacement_incorrect": 1.0,
            "llds/displacement_incorrect_answer": 1.0,
            # actions of correct ones: 0.5 - 0.1 = 0.4 up; -0.2 down; -0.5 + 0 + 0.2 = -0.3 down
            "llds/lld_rate": 2 / 3,
            "llds/lld_rate_first": 1 / 2,
            "llds/lld_rate_answer": 1.0,
            "llds/lld_magnitude": (0.2 / 1 + 0.3 / 3) / 2,
        },
        abs=1e-6,
    )


def test_the_sign_of_the_change_matters() -> None:
    assert signals(before=AFTER, after=BEFORE)["llds/lld_rate"] == pytest.approx(1 / 3)


def test_a_later_action_is_neither_the_first_nor_the_answer() -> None:
    index, before = torch.tensor([[0, 1, 2]]), torch.tensor([[-1.0, -1.0, -1.0]])
    one = {"action_index": index, "rewards": torch.ones(1), "answered": torch.tensor([True])}
    found = signals(before=before, after=before + torch.tensor([[0.1, -0.2, 0.3]]), **one)
    kinds = ("first", "later", "answer")
    assert [found[f"llds/displacement_correct_{kind}"] for kind in kinds] == pytest.approx([0.1, -0.2, 0.3])
    assert [found[f"llds/lld_rate_{kind}"] for kind in kinds] == [0.0, 1.0, 0.0]


def test_without_a_correct_action_only_incorrect_ones_are_told() -> None:
    for changes in ({"rewards": torch.zeros(3)}, {"action_index": ACTIONS.clone().index_fill_(0, torch.arange(2), -1)}):
        assert {key.split("_")[1] for key in signals(**changes)} == {"incorrect"}


def test_without_a_fall_the_magnitude_is_zero() -> None:
    metrics = signals(after=BEFORE)
    assert (metrics["llds/lld_rate"], metrics["llds/lld_magnitude"]) == (0.0, 0.0)


def test_nothing_has_no_signals() -> None:
    nothing = {"before": BEFORE[:0], "after": AFTER[:0], "action_index": ACTIONS[:0]}
    assert signals(**nothing, answered=ANSWERED[:0], rewards=REWARDS[:0]) == {}
    assert signals(action_index=torch.full_like(ACTIONS, -1)) == {}

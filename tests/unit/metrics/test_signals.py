"""Displacement, averages, the norm of an update, and groups with a signal."""

import math

import pytest
import torch

from llds.metrics import (
    as_floats,
    by_signal,
    control_metrics,
    displacement_metrics,
    mean_metrics,
    observation_metrics,
    oversampling_metrics,
    squared_adam_update,
    update_norm,
)
from llds.metrics.averages import RowMeans, masked_mean
from llds.types import Action, Prompt, SamplingParams, Trajectory, Turn

NAN = math.nan
ACTIONS = torch.tensor([[-1, 0, 0, -1, 1], [-1, 0, 0, 0, -1], [-1, 0, -1, -1, -1]])
REWARDS = torch.tensor([1.0, 1.0, 0.0])
ANSWERED = torch.tensor([True, False, True])
BEFORE = torch.tensor([[NAN, -1.0, -2.0, NAN, -3.0], [NAN, -1.0, -1.0, -1.0, NAN], [NAN, -4.0, NAN, NAN, NAN]])
AFTER = torch.tensor([[NAN, -0.5, -2.1, NAN, -3.2], [NAN, -1.5, -1.0, -0.8, NAN], [NAN, -3.0, NAN, NAN, NAN]])


def signals(**changes: torch.Tensor) -> dict[str, float]:
    tensors = {"before": BEFORE, "after": AFTER, "action_index": ACTIONS, "answered": ANSWERED, "correct": REWARDS > 0}
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
    one = {"action_index": index, "correct": torch.tensor([True]), "answered": torch.tensor([True])}
    found = signals(before=before, after=before + torch.tensor([[0.1, -0.2, 0.3]]), **one)
    kinds = ("first", "later", "answer")
    assert [found[f"llds/displacement_correct_{kind}"] for kind in kinds] == pytest.approx([0.1, -0.2, 0.3])
    assert [found[f"llds/lld_rate_{kind}"] for kind in kinds] == [0.0, 1.0, 0.0]


def test_without_a_correct_action_only_incorrect_ones_are_told() -> None:
    for changes in (
        {"correct": torch.zeros(3, dtype=torch.bool)},
        {"action_index": ACTIONS.clone().index_fill_(0, torch.arange(2), -1)},
    ):
        assert {key.split("_")[1] for key in signals(**changes)} == {"incorrect"}


def test_without_a_fall_the_magnitude_is_zero() -> None:
    metrics = signals(after=BEFORE)
    assert (metrics["llds/lld_rate"], metrics["llds/lld_magnitude"]) == (0.0, 0.0)


def test_nothing_has_no_signals() -> None:
    nothing = {"before": BEFORE[:0], "after": AFTER[:0], "action_index": ACTIONS[:0]}
    assert signals(**nothing, answered=ANSWERED[:0], correct=REWARDS[:0] > 0) == {}
    assert signals(action_index=torch.full_like(ACTIONS, -1)) == {}


def test_a_mean_is_over_tokens_and_then_over_rows_that_have_any() -> None:
    values = torch.tensor([[1.0, 3.0, math.nan], [8.0, math.nan, math.inf], [math.nan] * 3])
    mask = torch.tensor([[True, True, False], [True, False, False], [False] * 3])
    assert float(masked_mean(values, mask)) == (2 + 8) / 2
    assert math.isnan(masked_mean(values, torch.zeros_like(mask)))


def test_the_mean_over_some_rows_is_that_over_their_tokens_to_the_bit() -> None:
    values = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    mask = values > 0.5
    mask[::7] = False
    means = RowMeans.of(values, mask)
    for rows in (values[:, 0] > 0, values[:, 0] < 9, values[:, 0] > 9):
        expected, found = masked_mean(values, mask & rows[:, None]), means.over(rows)
        assert torch.equal(expected, found) or (expected.isnan() and found.isnan())


def test_what_is_not_finite_is_left_out_and_the_order_stays() -> None:
    values = {"b": torch.tensor(1.5), "nan": torch.tensor(math.nan), "a": 2.0, "inf": math.inf, "c": torch.tensor(3)}
    assert list(as_floats(values).items()) == [("b", 1.5), ("a", 2.0), ("c", 3.0)]
    assert as_floats({}) == {}


def test_means_are_over_the_rows_that_have_the_key() -> None:
    rows = [{"a": torch.tensor(1.0), "b": 4.0}, {"a": 3.0, "b": torch.tensor(math.nan)}, {}]
    assert mean_metrics(rows) == {"a": 2.0, "b": 4.0}
    assert mean_metrics([]) == {}


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("steps", [1, 5])
def test_it_is_the_change_of_the_weights(weight_decay: float, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update_norm, "_CHUNK", 7)
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in ((5, 3), (4,))]
    unused = torch.nn.Parameter(torch.randn(3))
    optimizer = torch.optim.AdamW([*weights, unused], lr=0.01, betas=(0.8, 0.9), weight_decay=weight_decay)
    for step in range(steps):
        before = [weight.detach().clone() for weight in weights]
        optimizer.param_groups[0]["lr"] = 0.01 * (step + 1)
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        optimizer.step()
    change = sum(float((weight.detach() - old).square().sum()) for weight, old in zip(weights, before, strict=True))
    assert float(squared_adam_update(optimizer, 0.01 * steps)) == pytest.approx(change, rel=1e-9)


def test_before_the_first_step_it_is_zero() -> None:
    assert float(squared_adam_update(torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))]), 0.1)) == 0.0


def trajectory(group: str, reward: float, tokens: int = 1) -> Trajectory:
    turns = [Turn([7] * tokens, [-1.0] * tokens, "stop", Action("answer", "", "x"))]
    return Trajectory(
        Prompt("p", "q", ("x",)), group, 0, SamplingParams(), turns=turns, reward=reward, is_correct=reward > 0
    )


def names(groups: list[list[Trajectory]]) -> list[str]:
    return [group[0].group_id for group in groups]


def test_a_group_has_a_signal_where_its_rewards_differ() -> None:
    rewards = {"b": (0.0, 1.0), "a": (1.0, 1.0), "d": (0.0, 0.0), "c": (0.3, 0.3), "e": (0.3, 0.7)}
    found = by_signal([trajectory(name, value) for name, values in rewards.items() for value in values])
    assert names(found.with_signal) == ["b", "e"]  # partly right answers count as they are rewarded
    assert names(found.all_correct) == ["a", "c"]
    assert names(found.all_wrong) == ["d"]


def test_what_oversampling_did_by_hand() -> None:
    first = [trajectory("a", 1.0, 5), trajectory("a", 1.0, 3), trajectory("b", 0.0, 2), trajectory("b", 0.0, 2)]
    second = [trajectory("c", 1.0, 1), trajectory("c", 0.0, 3)]
    groups = by_signal(first + second)
    assert oversampling_metrics(groups, [first, second], trained=second) == pytest.approx(
        {
            "rollout/rounds": 2,
            "rollout/groups_drawn": 3,
            "rollout/groups_with_signal": 1,
            "rollout/groups_all_correct": 1,
            "rollout/groups_all_wrong": 1,
            "rollout/further_tokens": 4 / 16,
            "reward/mean_trained": 1 / 2,  # of the six that were sampled it is also 3 / 6
        }
    )
    assert "reward/mean_trained" not in oversampling_metrics(groups, [first, second], trained=[])


def test_the_likelihood_of_observations_against_the_reference_by_hand() -> None:
    mask = torch.tensor([[False, True, True, False], [False, True, False, False], [False, False, False, False]])
    policy = torch.tensor([[NAN, -1.0, -2.0, -9.0], [NAN, -4.0, NAN, NAN], [NAN] * 4])
    reference = torch.tensor([[NAN, -1.5, -1.0, -9.0], [NAN, -3.0, NAN, NAN], [NAN] * 4])
    # (+0.5 - 1) / 2 and -1; the third trajectory searched nothing
    expected = {"policy/observation_log_ratio": (-0.25 - 1) / 2, "policy/observation_log_likelihood": (-1.5 - 4) / 2}
    assert observation_metrics(policy, reference, mask) == pytest.approx(expected)
    assert observation_metrics(policy, reference, mask & False) == {}


def test_the_probability_of_marks_counts_where_something_else_was_sampled() -> None:
    ids = torch.tensor([[5, 7, 1, 9, 8], [5, 2, 1, 1, 0]])  # 1 and 2 are control tokens
    actions = torch.tensor([[0, 1, 1, 0, 1], [0, 1, 1, 0, 0]]).bool()
    probability = torch.tensor([[0.9, 0.1, 0.7, 0.8, 0.3], [0.9, 0.6, 0.5, 0.4, 0.2]])
    found = control_metrics(probability, ids, actions, torch.tensor([1, 2]))
    assert found == pytest.approx(
        {"policy/control_probability": 0.2}
    )  # of 7 and 8 in the first row; none in the second
    assert control_metrics(probability[1:], ids[1:], actions[1:], torch.tensor([1, 2])) == {}

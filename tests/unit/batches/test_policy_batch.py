"""Trajectories as tensors: every token in its place, every row in one micro-batch."""

import asyncio
from dataclasses import replace

import pytest
import torch

from llds.batches.loss_inputs import with_advantages
from llds.batches.micro_batches import MicroBatchLimits
from llds.batches.policy_batch import PolicyBatch, collate
from llds.errors import ConfigurationError
from llds.losses import AdvantageInputs, Advantages
from llds.rewards import ExactMatchReward, GoldPassageReward, SumOfRewards
from llds.rollout.scoring import Scoring
from llds.types import Action, Prompt, SamplingParams, Trajectory, Turn
from tests.trajectories import random_trajectories


def trajectory(group: str, reward: float, prompt: int, *parts: tuple[int, int]) -> Trajectory:
    """Prompt of some tokens, then (action, observation) lengths; token ids count up from 1."""
    numbers = iter(range(1, 1000))
    ids = tuple(next(numbers) for _ in range(prompt))
    turns = []
    for action, observation in parts:
        sampled = [next(numbers) for _ in range(action)]
        appended = [next(numbers) for _ in range(observation)]
        turns.append(Turn(sampled, [-0.1 * token for token in sampled], "stop", Action("invalid"), appended))
    return Trajectory(
        Prompt("p", "q", ("a",), prompt_ids=ids),
        group,
        0,
        SamplingParams(),
        turns=turns,
        reward=reward,
        is_correct=reward > 0,
    )


@pytest.fixture
def trajectories() -> list[Trajectory]:
    return [
        trajectory("x", 1, 3, (2, 4), (3, 0)),
        trajectory("x", 0, 3, (1, 0)),
        trajectory("y", 0, 1, (2, 1), (2, 1), (1, 0)),
        trajectory("y", 1, 2),
    ]


def test_every_token_is_in_its_place(trajectories: list[Trajectory]) -> None:
    for given in (random_trajectories(), trajectories):
        batch = collate(given)
        lengths = [len(one.token_ids) for one in given]
        for row, expected in enumerate(given):
            n, filling = lengths[row], max(lengths) - lengths[row]
            assert batch.input_ids[row].tolist() == expected.token_ids + [0] * filling
            assert batch.action_index[row].tolist() == expected.action_index + [-1] * filling
            log_probs = torch.tensor(expected.behavior_log_probs + [0.0] * filling)
            assert torch.equal(batch.behavior_log_probs[row], log_probs)
            assert batch.attention_mask[row].tolist() == [1] * n + [0] * filling
        assert batch.lengths.tolist() == lengths
    assert batch.action_index[0].tolist() == [-1, -1, -1, 0, 0, -1, -1, -1, -1, 1, 1, 1]
    assert batch.action_mask.sum(dim=1).tolist() == [5, 1, 5, 0]


def test_groups_are_numbered_and_rewards_are_floats(trajectories: list[Trajectory]) -> None:
    batch = collate(trajectories)
    assert batch.groups.tolist() == [0, 0, 1, 1]
    assert batch.rewards.dtype == torch.float32  # though these rewards were given as int
    assert batch.rewards.tolist() == [1.0, 0.0, 0.0, 1.0]
    assert batch.advantages.tolist() == [0.0] * 4


def test_answer_spans_are_marked(trajectories: list[Trajectory]) -> None:
    batch = collate(trajectories, [range(10, 12), range(0), range(7, 8), range(0)])
    assert batch.answer_mask.nonzero().tolist() == [[0, 10], [0, 11], [2, 7]]
    assert not collate(trajectories).answer_mask.any()


def test_padding_does_not_depend_on_a_token_that_looks_like_it() -> None:
    zeros = trajectory("x", 0, 2, (2, 1))
    zeros.turns[0].action_ids = [0, 0]
    batch = collate([zeros, trajectory("x", 0, 9)])
    assert batch.lengths.tolist() == [5, 9]
    assert batch.action_index[0].tolist() == [-1, -1, 0, 0, -1, -1, -1, -1, -1]


def scored(trajectories: list[Trajectory]) -> PolicyBatch:
    batch = collate(trajectories)
    values = {name: torch.randn(batch.input_ids.shape) for name in ("old_log_probs", "ref_log_probs")}
    return PolicyBatch(**{**vars(batch), **values})


def test_rows_take_every_tensor_and_are_cut_to_the_longest(trajectories: list[Trajectory]) -> None:
    batch = scored(trajectories)
    rows = batch.rows(torch.tensor([3, 1]))
    assert len(rows) == 2
    assert rows.input_ids.tolist() == [[1, 2, 0, 0], [1, 2, 3, 4]]
    assert rows.groups.tolist() == [1, 0]
    for name in ("attention_mask", "action_index", "behavior_log_probs", "old_log_probs", "ref_log_probs"):
        assert torch.equal(getattr(rows, name), getattr(batch, name)[[3, 1], :4])
    assert rows.anchor_log_probs is None


def test_parts_of_the_reward_reach_the_estimator_of_advantages(trajectories: list[Trajectory]) -> None:
    class Weighted(Advantages):
        def __call__(self, inputs: AdvantageInputs) -> torch.Tensor:
            parts = inputs.parts(self)
            return (parts.values.nan_to_num() * parts.weights).sum(1) + parts.turn_values[:, 1].nan_to_num().sum(1)

    searched = Turn([5], [-0.1], "stop", Action("tool", "search", "x"), document_ids=("gold",))
    answered = Turn([6], [-0.1], "stop", Action("answer", "", "Oslo"))
    prompt = Prompt("1", "?", ("Oslo",), prompt_ids=(1,), row={"gold_passages": ["gold"]})
    found = Trajectory(prompt, "x", 0, SamplingParams(), turns=[searched, replace(searched), answered])
    unsure = Trajectory(replace(prompt, row={}), "x", 1, SamplingParams(), turns=[answered])
    reward = SumOfRewards({"answer": ExactMatchReward(), "found": GoldPassageReward()}, {"found": 0.5})
    Scoring(reward).score([found, unsure], asyncio.run)
    batch = with_advantages(collate([found, unsure], reward=reward), "std", Weighted())
    assert batch.reward_parts is not None
    assert batch.reward_parts.names == ("answer", "found")
    assert str(batch.reward_parts.values.tolist()) == "[[1.0, 1.0], [1.0, nan]]"
    assert str(batch.reward_parts.turn_values[:, 1].tolist()) == "[[1.0, 0.0, nan], [nan, nan, nan]]"
    assert batch.advantages.tolist() == [1.5 + 1.0, 1.0]
    assert batch.rows(torch.tensor([0])).reward_parts is None
    whole = collate(trajectories, reward=ExactMatchReward()).reward_parts
    assert whole is not None
    assert (whole.names, whole.values[:, 0].tolist()) == (("reward",), [1, 0, 0, 1])
    with pytest.raises(ConfigurationError, match="parts of the reward for Weighted"):
        with_advantages(collate(trajectories), "std", Weighted())


@pytest.mark.parametrize("size", [1, 2, 3, 4, 100])
def test_micro_batches_hold_each_row_once_and_similar_lengths(trajectories: list[Trajectory], size: int) -> None:
    batch = scored(trajectories)
    parts = list(batch.micro_batches(MicroBatchLimits(size)))
    assert sorted(torch.cat([indices for indices, _ in parts]).tolist()) == [0, 1, 2, 3]
    assert all(len(part) <= size for _, part in parts)
    for indices, part in parts:
        assert part.input_ids.shape[1] == int(batch.lengths[indices].max())
        assert torch.equal(part.lengths, batch.lengths[indices])
    ordered = torch.cat([part.lengths for _, part in parts]).tolist()
    assert ordered == sorted(ordered)


def test_a_batch_moves_with_all_its_tensors(trajectories: list[Trajectory]) -> None:
    batch = scored(trajectories).to(torch.device("meta"))
    assert {value.device.type for value in vars(batch).values() if value is not None} == {"meta"}
    assert batch.anchor_log_probs is None


def test_a_rank_that_runs_short_gets_a_row_without_actions(trajectories: list[Trajectory]) -> None:
    batch = collate(trajectories[:1])
    [(rows, short)] = batch.micro_batches(MicroBatchLimits(4), rank=1, ranks=2)
    assert len(rows) == 0
    assert len(short) == 1
    assert not short.action_mask.any()
    assert short.advantages.tolist() == [0]
    [(rows, whole)] = batch.micro_batches(MicroBatchLimits(4), rank=0, ranks=2)
    assert rows.tolist() == [0]
    assert whole.action_mask.any()


@pytest.mark.parametrize("packed", [True, False])
def test_a_rank_without_rows_gets_some_that_count_for_nothing(trajectories: list[Trajectory], packed: bool) -> None:
    batch = replace(collate(trajectories[2:3]), advantages=torch.ones(1))  # its second token is an action
    [(rows, filler)] = batch.micro_batches(MicroBatchLimits(4), 1, 2, packed=packed)
    assert len(rows) == 0
    assert (filler.action_index == -1).all()
    assert not filler.action_mask.any()
    assert (filler.advantages == 0).all()

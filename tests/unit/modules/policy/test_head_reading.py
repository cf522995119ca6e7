"""What is read of the old policy's head is that of full logits, whatever the micro-batches, and reaches a training."""

import math
from pathlib import Path

import pytest
import torch

from llds.batches.micro_batches import MicroBatchLimits
from llds.batches.policy_batch import collate
from llds.callbacks.rollout.information_gain import answers_after
from llds.errors import ConfigurationError
from llds.losses import GDPOAdvantages, GRPOLoss, IGPOAdvantages, LpReg, NegativeWeight, NTHRAdvantages
from llds.losses.advantages.influence import influence_on
from llds.losses.log_probs import HeadTokens
from llds.modules import Policy
from llds.modules.policy import head_reading
from llds.modules.policy.head_reading import HeadReading
from llds.modules.policy.tokenizer import load_tokenizer
from tests.runs import POLICY, answers, make_run, scripted, tiny_policy
from tests.trajectories import random_trajectories

SHARE = 0.9
"""A random policy is nearly uniform."""


@pytest.fixture(scope="module", params=[True, False], ids=["shared", "padded"])
def policy(request: pytest.FixtureRequest) -> Policy:
    return Policy(tiny_policy(), "float64", share_prefixes=request.param)


@pytest.mark.parametrize("size", [2, pytest.param(100, marks=pytest.mark.slow)])
@torch.no_grad()
def test_influence_and_proxy_are_those_of_full_logits_whatever_the_micro_batches(policy: Policy, size: int) -> None:
    batch = collate(random_trajectories(groups=2, members=3))  # the second group is all wrong
    reading = HeadReading(policy, MicroBatchLimits(size), 0.8)
    influence, proxy = reading.influence(batch), reading.proxy(batch, SHARE)
    states, ids, right = [], [], []
    for row in range(3):
        places = batch.action_mask[row].nonzero()[:, 0]
        hidden = policy.base_model.get_decoder()(input_ids=batch.input_ids[row : row + 1]).last_hidden_state[0]
        states.append(hidden[places - 1])
        ids.append(batch.input_ids[row, places])
        right += [bool(batch.correct[row])] * len(places)
        every = torch.log_softmax(policy.base_model.lm_head(states[-1]) / 0.8, 1)
        kept = every >= every.amax(1, keepdim=True) + math.log(SHARE)
        expected = every.masked_fill(~kept, -torch.inf).log_softmax(1).gather(1, ids[-1][:, None])[:, 0]
        assert torch.allclose(proxy[row, places], expected, rtol=0, atol=1e-10)
    tokens = HeadTokens(torch.cat(states), torch.cat(ids), policy.base_model.lm_head.weight, None, 0.8)
    expected = influence_on(tokens, torch.tensor(right))
    assert (influence[:3][batch.action_mask[:3]] - expected).abs().max() <= 1e-12
    assert influence[:3].any()
    assert not influence[3:].any()


@torch.no_grad()
def test_the_shares_of_two_ranks_add_up(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = collate(random_trajectories(groups=2, members=3))
    reading = HeadReading(policy, MicroBatchLimits(2), 1.0)
    whole, hidden = reading.proxy(batch, SHARE), reading._hidden(batch)
    monkeypatch.setattr(head_reading, "world_size", lambda: 2)
    proxies, states = [], []
    for number in range(2):
        monkeypatch.setattr(head_reading, "rank", lambda number=number: number)
        proxies.append(reading.proxy(batch, SHARE))  # of one process: nothing is added up
        states.append(reading._hidden(batch))
        assert states[-1].any()
    assert torch.allclose(sum(proxies), whole, rtol=0, atol=1e-12)
    assert torch.allclose(sum(states), hidden, rtol=0, atol=1e-12)


def test_the_gold_answer_stands_after_each_history() -> None:
    tokenizer = load_tokenizer(POLICY)
    [trajectory, *_] = random_trajectories(1, 1)
    batch = answers_after([(trajectory, 0), (trajectory, 1)], tokenizer, "<answer> ")
    turn = trajectory.turns[0]
    for row, history in enumerate(([], [*turn.action_ids, *turn.observation_ids])):
        start = [*trajectory.prompt.prompt_ids, *history]
        ids = batch.input_ids[row, : int(batch.lengths[row])].tolist()
        assert ids[: len(start)] == start
        assert tokenizer.decode(ids[len(start) :]) == "<answer> gold"
        assert tokenizer.decode(batch.input_ids[row][batch.action_mask[row]]).strip() == "gold"


@pytest.mark.slow
def test_a_training_reads_influence_gain_and_proxy_and_they_change_it(tmp_path: Path) -> None:
    def weights(folder: str, **module: object) -> torch.Tensor:
        run = make_run(tmp_path / folder, iterations=1, sampler=scripted(answers), module=module).fit()
        return torch.cat([value.flatten() for value in run.weights.values()])

    seen = [
        weights("plain"),
        weights("nthr", advantages=NTHRAdvantages(0.0)),
        weights("gain", advantages=NegativeWeight(0.5, IGPOAdvantages())),
        weights("lp_reg", policy_loss=GRPOLoss(1.0, 9.0), selections=[LpReg(0.3, 5.0, 1e-4)]),
    ]
    assert not any(torch.equal(one, other) for at, one in enumerate(seen) for other in seen[:at])
    assert all(one.isfinite().all() for one in seen)
    with pytest.raises(ConfigurationError, match="several parts for GDPOAdvantages"):
        make_run(tmp_path / "gdpo", module={"advantages": GDPOAdvantages()}).fit()

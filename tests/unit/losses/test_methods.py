"""Every method beside GRPO + LLDS as the objective has it: oracles, invariances, and REINFORCE at the old policy.

A new method joins with a line in `METHODS`.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llds import losses
from llds.batches import PolicyBatch
from llds.batches.loss_inputs import loss_batch, observation_mask, with_advantages, with_selection
from llds.batches.micro_batches import MicroBatchLimits
from llds.errors import ConfigurationError
from llds.losses.selections.selection import proxy_share
from llds.modules.objective import Objective
from tests.unit.losses import method_oracles as oracle
from tests.unit.losses.method_oracles import Data

Oracle = Callable[[Data], tuple[float, Any]]
HIGH = 1e9
NO_CLIP = {"clip_low": 1.0, "clip_high": HIGH}


@dataclass(frozen=True)
class Method:
    """An objective, and the same in plain Python.

    Attributes:
        oracle: Loss and gradient by the log-probs of the action tokens.
        loss: Policy loss.
        advantages: None is GRPO's.
        selections: Of the policy loss.
        terms: Beside it.
        is_reinforce: Whether its gradient at old policy = behavior policy is that of REINFORCE.
        llds: Beside it.
    """

    oracle: Oracle
    loss: losses.Loss = field(default_factory=losses.GRPOLoss)
    advantages: losses.Advantages | None = None
    selections: Sequence[losses.Selection] = ()
    terms: Sequence[losses.Loss] = ()
    is_reinforce: bool = True
    llds: losses.LLDSPenalty | None = None

    @property
    def objective(self) -> Objective:
        """The terms."""
        return Objective(self.loss, None, self.llds, further=self.terms, selections=self.selections)

    def prepared(self, batch: PolicyBatch) -> PolicyBatch:
        """With advantages and selections: what is done once for a mini-batch."""
        return with_selection(with_advantages(batch, "std", self.advantages), self.selections)


def on(places: set[tuple[int, int]], data: Data, inside: float = 1.0, outside: float = 0.0) -> Any:
    return {place: inside if place in places else outside for place in data.tokens()}


def of_grpo(**kwargs: Any) -> Oracle:
    return lambda data: oracle.policy(data, oracle.grpo(), **{k: v(data) for k, v in kwargs.items()})


def of_term(term: oracle.Term, aggregation: str = "token") -> Oracle:
    return lambda data: oracle.policy(data, term, aggregation)


def plain(data: Data) -> tuple[float, Any]:
    return oracle.policy(data, oracle.grpo())


def gspo_by_rows(data: Data) -> tuple[float, Any]:
    """All of a row in one action."""
    one = replace(data, index=[[min(turn, 0) for turn in row] for row in data.index])
    return oracle.turn_ratio(one, 0.05, 0.05)


def void(data: Data) -> set[tuple[int, int]]:
    return {(i, t) for i, t in data.tokens() if data.is_void[i]}


def drifted(data: Data) -> Any:
    weights = {}
    for i, t in data.tokens():
        places = data.of(i)
        mean = sum(data.behavior[i][s] - data.log_probs[i][s] for s in places) / len(places)
        weights[i, t] = 0.0 if data.advantages[i][t] < 0 and mean > 0.05 else 1.0
    return weights


def popped(data: Data, low: float = 0.8, high: float = 1.3) -> Any:
    return {place: ratio if low <= ratio <= high else 0.0 for place, ratio in oracle.ratios(data).items()}


def popped_rows(data: Data) -> Any:
    ratios = oracle.ratios(data)
    products = {i: math.prod(ratios[i, t] for t in data.of(i)) for i in range(len(data.index))}
    return {(i, t): products[i] if 0.5 <= products[i] <= 2 else 0.0 for i, t in ratios}


def rejected(kind: str, over: str, low: float, high: float) -> Callable[[Data], set[tuple[int, int]]]:
    def find(data: Data) -> set[tuple[int, int]]:
        logs = {place: math.log(ratio) for place, ratio in oracle.ratios(data).items()}
        of = {"k1": lambda d: -d, "k2": lambda d: d * d / 2, "k3": lambda d: math.exp(d) - 1 - d}[kind]
        found = set()
        for i, t in logs:
            values = [of(logs[i, s]) for s in data.of(i)]
            mean = sum(values) / len(values)
            value = {"token": of(logs[i, t]), "sum": sum(values), "mean": mean, "max": max(values)}[over]
            is_out = value > high if kind != "k1" else not math.log(low) <= value <= math.log(high)
            found |= {(i, t)} if is_out else set()
        return found

    return find


def most_covariant(data: Data) -> Any:
    values = oracle.covariance(data)
    return on(oracle.top(values, int(0.2 * len(values))), data)


def clip_cov(data: Data) -> Any:
    values = oracle.covariance(data)
    inside = {place: value for place, value in values.items() if 0.1 < value < 2.0}
    return on(oracle.top(inside, int(0.1 * len(values))), data, 0.0, 1.0)


def high_entropy(data: Data) -> Any:
    values = {(i, t): data.entropy[i][t] for i, t in data.tokens()}
    return on(oracle.top(values, int(0.3 * len(values))), data)


def pulled(data: Data) -> tuple[float, Any]:
    """Of negative tokens the least likely two fifths, but for those that the proxy leaves out."""
    values = {(i, t): -data.old[i][t] for i, t in data.tokens() if data.advantages[i][t] < 0}
    chosen = oracle.top(values, int(0.4 * len(values)))
    targets = {(i, t): data.proxy[i][t] for i, t in chosen if data.proxy[i][t] > -math.inf}
    assert targets
    return oracle.policy(data, oracle.grpo(1.0, 9.0), pulls=targets)


def uncut(data: Data) -> tuple[float, Any]:
    return oracle.policy(data, oracle.grpo(1.0, HIGH), penalties=most_covariant(data))


def positive_nll(data: Data) -> tuple[float, Any]:
    loss, gradient = plain(data)
    right = [(i, t) for i, t in data.tokens() if data.rewards[i] > 0]
    for i, t in right:
        loss -= 0.1 * data.log_probs[i][t] / len(right)
        gradient[i][t] -= 0.1 / len(right)
    return loss, gradient


def entropy_bonus(data: Data) -> tuple[float, Any]:
    """The test's entropy is -0.7 times the log-prob."""
    loss, gradient = plain(data)
    places = data.tokens()
    for i, t in places:
        loss += 0.01 * 0.7 * data.log_probs[i][t] / len(places)
        gradient[i][t] += 0.01 * 0.7 / len(places)
    return loss, gradient


def echo(data: Data) -> tuple[float, Any]:
    loss, gradient = plain(data)
    places = [
        (i, t)
        for i, row in enumerate(data.index)
        for t in range(data.lengths[i])
        if row[t] < 0 and any(turn >= 0 for turn in row[:t])
    ]
    for i, t in places:
        loss -= 0.1 * data.log_probs[i][t] / len(places)
        gradient[i][t] -= 0.1 / len(places)
    return loss, gradient


METHODS: dict[str, Method] = {
    "grpo": Method(plain),
    "dual_clip": Method(lambda data: oracle.policy(data, oracle.grpo(most=1.25)), losses.GRPOLoss(max_ratio=1.25)),
    "dr_grpo": Method(
        lambda data: oracle.policy(data, oracle.grpo(), "constant", 9),
        losses.GRPOLoss(aggregation="constant", constant_tokens=9),
        losses.GroupAdvantages("none"),
    ),
    "rloo": Method(plain, advantages=losses.RLOOAdvantages()),
    "reinforce_pp": Method(plain, advantages=losses.ReinforcePlusPlusAdvantages()),
    "reinforce_pp_discounted": Method(plain, advantages=losses.ReinforcePlusPlusAdvantages(discount=0.9)),
    "reinforce_pp_baseline": Method(plain, advantages=losses.ReinforcePlusPlusAdvantages(baseline=True)),
    "w_reinforce": Method(plain, advantages=losses.SignedAdvantages()),
    "psr": Method(plain, advantages=losses.SignedAdvantages(1.0, 0.0)),
    "nsr": Method(plain, advantages=losses.SignedAdvantages(0.0, 1.0)),
    "negative_weight": Method(plain, advantages=losses.NegativeWeight(0.5)),
    "gtpo": Method(plain, advantages=losses.ConflictAdvantages()),
    "gigpo": Method(plain, advantages=losses.GiGPOAdvantages(0.5)),
    "gigpo_unscaled": Method(plain, advantages=losses.GiGPOAdvantages(1.0, 0.8, "none")),
    "nthr": Method(plain, advantages=losses.NTHRAdvantages()),
    "nthr_constant": Method(plain, advantages=losses.NTHRAdvantages(0.0, 0.5, losses.RLOOAdvantages())),
    "gdpo": Method(plain, advantages=losses.GDPOAdvantages()),
    "mt_grpo": Method(plain, advantages=losses.MTGRPOAdvantages(0.7)),
    "mt_grpo_part": Method(plain, advantages=losses.MTGRPOAdvantages(1.0, "form")),
    "igpo": Method(plain, advantages=losses.IGPOAdvantages(0.8)),
    "cispo": Method(of_term(oracle.cispo(1.3, 1.0)), losses.CISPOLoss(1.3)),
    "cispo_two_sided": Method(of_term(oracle.cispo(1.3, 0.2)), losses.CISPOLoss(1.3, 0.2)),
    "cispo_llds": Method(of_term(oracle.cispo(5.0, 1.0)), losses.CISPOLoss(), llds=losses.LLDSPenalty()),
    "sapo": Method(of_term(oracle.sapo(1.0, 1.05), "trajectory"), losses.SAPOLoss()),
    "wapo": Method(of_term(oracle.wapo(0.3), "trajectory"), losses.WAPOLoss(0.3), is_reinforce=False),
    "dppo_tv": Method(of_term(oracle.dppo("tv", 0.1, 0.15, 1.4)), losses.DPPOLoss("tv", 0.1, 0.15, 1.4)),
    "dppo_kl": Method(of_term(oracle.dppo("kl", 0.01, 0.02, 20.0)), losses.DPPOLoss("kl", 0.01, 0.02)),
    "ipo": Method(of_term(oracle.ipo(0.15, 0.01)), losses.IPOLoss(0.15, 0.01)),
    "gmpo": Method(lambda data: oracle.gmpo(data, 0.2, 0.1), losses.GMPOLoss(0.2, 0.1)),
    "turn_ratio": Method(lambda data: oracle.turn_ratio(data, 0.05, 0.1), losses.TurnRatioLoss(0.05, 0.1)),
    "gspo": Method(gspo_by_rows, losses.GSPOLoss(0.05, 0.05)),
    "void_turns": Method(of_grpo(excluded=void), selections=[losses.VoidTurns()]),
    "opsm": Method(of_grpo(weights=drifted), selections=[losses.OffPolicySequenceMask(0.05)]),
    "icepop": Method(of_grpo(weights=popped), selections=[losses.ImportanceMask(0.8, 1.3)]),
    "icepop_sequence": Method(of_grpo(weights=popped_rows), selections=[losses.ImportanceMask(0.5, 2.0, "sequence")]),
    **{
        f"reject_{kind}_{over}": Method(
            of_grpo(excluded=rejected(kind, over, 0.7, high)),
            selections=[losses.Rejection(kind, over, high, 0.7 if kind == "k1" else None)],
        )
        for kind, over, high in (
            ("k1", "token", 1.2),
            ("k1", "sum", 1.3),
            ("k1", "mean", 1.02),
            ("k2", "max", 0.03),
            ("k3", "mean", 0.012),
            ("k3", "token", 0.03),
            ("k2", "sum", 0.05),
        )
    },
    "kl_cov": Method(uncut, losses.GRPOLoss(**NO_CLIP), selections=[losses.KLCov(0.2, 1.0)]),
    "clip_cov": Method(of_grpo(weights=clip_cov), selections=[losses.ClipCov(0.1, 0.1, 2.0)], is_reinforce=False),
    "high_entropy": Method(
        of_grpo(weights=high_entropy), selections=[losses.HighEntropyTokens(0.3)], is_reinforce=False
    ),
    "lp_reg": Method(pulled, losses.GRPOLoss(1.0, 9.0), selections=[losses.LpReg(0.4)], is_reinforce=False),
    "positive_nll": Method(positive_nll, terms=[losses.PositiveNLL()], is_reinforce=False),
    "entropy_bonus": Method(entropy_bonus, terms=[losses.EntropyBonus(0.01)], is_reinforce=False),
    "echo": Method(echo, terms=[losses.ObservationNLL()], is_reinforce=False),
}
ADVANTAGES: dict[str, Callable[[Data], Any]] = {
    "grpo": oracle.group,
    "dr_grpo": lambda data: oracle.group(data, "none"),
    "rloo": oracle.rloo,
    "reinforce_pp": lambda data: oracle.reinforce_plus_plus(data, False, 1.0),
    "reinforce_pp_discounted": lambda data: oracle.reinforce_plus_plus(data, False, 0.9),
    "reinforce_pp_baseline": lambda data: oracle.reinforce_plus_plus(data, True, 1.0),
    "w_reinforce": lambda data: oracle.signed(data, 0.1, 1.0),
    "psr": lambda data: oracle.signed(data, 1.0, 0.0),
    "nsr": lambda data: oracle.signed(data, 0.0, 1.0),
    "negative_weight": lambda data: oracle.negative_weight(data, 0.5),
    "gtpo": lambda data: oracle.conflict(data, 2.0),
    "gigpo": lambda data: oracle.gigpo(data, 0.5, 0.95, "std"),
    "gigpo_unscaled": lambda data: oracle.gigpo(data, 1.0, 0.8, "none"),
    "nthr": lambda data: oracle.nthr(data, oracle.group(data), None, 1.0),
    "nthr_constant": lambda data: oracle.nthr(data, oracle.rloo(data), 0.0, 0.5),
    "gdpo": oracle.gdpo,
    "mt_grpo": lambda data: oracle.mt_grpo(data, 0.7, None),
    "mt_grpo_part": lambda data: oracle.mt_grpo(data, 1.0, 1),
    "igpo": lambda data: oracle.igpo(data, 0.8, 2),
}


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> Method:
    return METHODS[request.param]


def make(seed: int = 0) -> tuple[PolicyBatch, Tensor]:
    """Three groups of four, the last all wrong, in float64; and log-probs of a policy that has moved.

    Prompts of two or three tokens, one to three turns, one row without actions, some void; the first action of a group
    is mostly the same, and a few ids make conflicts and equal observations likely.
    """
    generator = torch.Generator().manual_seed(seed)
    width, rows = 18, 12
    index, ids = torch.full((rows, width), -1), torch.zeros(rows, width, dtype=torch.long)
    lengths = torch.zeros(rows, dtype=torch.long)
    for row in range(rows):
        place = 2 + row // 4 % 2
        ids[row, :place] = row // 4
        for turn in range(0 if row == 7 else 1 + row % 3):
            length = 2 if turn == 0 else 1 + int(torch.randint(3, (), generator=generator))
            index[row, place : place + length] = turn
            ids[row, place : place + length] = 5 + torch.randint(2, (length,), generator=generator)
            ids[row, place + length] = 8 + int(torch.randint(2, (), generator=generator))
            place += length + 1
        lengths[row] = place
    attention = (torch.arange(width) < lengths.unsqueeze(1)).long()
    noise = torch.randn(2, rows, width, generator=generator, dtype=torch.float64)
    old = -0.05 - 2 * torch.rand(rows, width, generator=generator, dtype=torch.float64)
    rewards = torch.tensor([1, 0, 1, 0, 0, 1, 0, 1, 0, 0, 0, 0], dtype=torch.float64)
    proxy = old + 0.3 * torch.rand(rows, width, generator=generator, dtype=torch.float64)
    batch = PolicyBatch(
        input_ids=ids * attention,
        attention_mask=attention,
        action_index=index,
        answer_mask=torch.zeros(rows, width, dtype=torch.bool),
        behavior_log_probs=old + 0.15 * noise[0],
        rewards=rewards,
        correct=rewards > 0,
        advantages=torch.zeros(rows, dtype=torch.float64),
        groups=torch.arange(rows) // 4,
        old_log_probs=old,
        is_void=torch.arange(rows) % 5 == 2,
        old_entropy=torch.rand(rows, width, generator=generator, dtype=torch.float64),
        old_proxy=proxy.masked_fill(torch.rand(rows, width, generator=generator) < 0.3, -torch.inf),
        influence=torch.randn(rows, width, generator=generator, dtype=torch.float64),
        reward_parts=parts_of(rewards, index.amax(1), generator),
    )
    return batch, (old + 0.25 * noise[1]).clamp(max=-0.01)


def parts_of(rewards: Tensor, last: Tensor, generator: torch.Generator) -> losses.RewardParts:
    """Three parts: the answer, a form that says something of actions, and a gain that says nothing of the last one."""
    rows = len(rewards)
    values = torch.stack([rewards, torch.randint(2, (rows,), generator=generator).double(), rewards * torch.nan], 1)
    values[3, 1] = torch.nan
    turns = torch.randn(rows, 3, 3, generator=generator, dtype=torch.float64)
    turns[:, 0] = torch.nan
    turns[torch.arange(3) > last[:, None, None].expand(rows, 3, 3)] = torch.nan
    turns[:, 2][torch.arange(3) >= last[:, None]] = torch.nan
    return losses.RewardParts(("answer", "form", "information_gain"), torch.tensor([1.0, 0.25, 1.0]), values, turns)


def reordered(batch: PolicyBatch, order: Tensor) -> PolicyBatch:
    """The rows, with the parts of their reward."""
    parts = batch.reward_parts
    assert parts is not None
    moved = replace(parts, values=parts.values[order], turn_values=parts.turn_values[order])
    return replace(batch.rows(order), reward_parts=moved)


def share(objective: Objective, log_probs: Tensor, batch: PolicyBatch, denominators: Any) -> tuple[Tensor, Tensor]:
    """A micro-batch's loss, and its gradient by log-probs, through the entropy too."""
    leaf = log_probs.clone().requires_grad_()
    batch = replace(batch, entropy=-0.7 * leaf)
    loss = objective.loss(leaf, batch, denominators)
    (gradient,) = torch.autograd.grad(loss, leaf)
    return loss.detach(), gradient


def whole(method: Method, batch: PolicyBatch, log_probs: Tensor) -> tuple[Tensor, Tensor]:
    """Of a mini-batch in one piece."""
    batch = method.prepared(batch)
    return share(method.objective, log_probs, batch, method.objective.denominators(batch))


def by_token(advantages: Tensor) -> Tensor:
    """Advantages as ``[B, 1]`` or ``[B, T]``."""
    return advantages if advantages.ndim == 2 else advantages.unsqueeze(1)


def data_of(batch: PolicyBatch, log_probs: Tensor) -> Data:
    """For the oracles; NaN off the actions where a table is a batch's."""
    assert batch.old_log_probs is not None
    assert batch.old_entropy is not None
    assert batch.is_void is not None
    assert batch.old_proxy is not None
    assert batch.influence is not None
    assert batch.reward_parts is not None
    return Data(
        log_probs=log_probs.tolist(),
        old=batch.old_log_probs.tolist(),
        behavior=batch.behavior_log_probs.tolist(),
        entropy=batch.old_entropy.tolist(),
        index=batch.action_index.tolist(),
        ids=batch.input_ids.tolist(),
        lengths=batch.lengths.tolist(),
        groups=batch.groups.tolist(),
        rewards=batch.rewards.tolist(),
        is_void=batch.is_void.tolist(),
        proxy=batch.old_proxy.tolist(),
        influence=batch.influence.tolist(),
        weights=batch.reward_parts.weights.tolist(),
        parts=batch.reward_parts.values.tolist(),
        turns=batch.reward_parts.turn_values.tolist(),
        advantages=by_token(batch.advantages).expand_as(log_probs).tolist(),
    )


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_loss_and_gradient_are_those_of_the_oracle(method: Method, seed: int, exact: float) -> None:
    batch, log_probs = make(seed)
    value, gradient = whole(replace(method, llds=None), batch, log_probs)
    expected, expected_gradient = method.oracle(data_of(method.prepared(batch), log_probs))
    assert value.item() == pytest.approx(expected, abs=exact)
    assert (gradient - torch.tensor(expected_gradient, dtype=torch.float64)).abs().max() <= exact
    assert gradient.any()
    check_metrics(method.objective, method.prepared(batch), log_probs.requires_grad_())


def check_metrics(objective: Objective, batch: PolicyBatch, log_probs: Tensor) -> None:
    """They are detached, finite, and there for each term."""
    signals = objective.signals(log_probs, replace(batch, entropy=-log_probs), objective.denominators(batch))
    assert all(value.isfinite() and not value.requires_grad for value in signals.values())
    assert {f"train/{name}_loss" for name in objective.terms} | {"train/loss"} <= signals.keys()


@pytest.mark.parametrize("name", ADVANTAGES)
@pytest.mark.parametrize("seed", [0, 1])
def test_advantages_are_those_of_the_oracle(name: str, seed: int, exact: float) -> None:
    batch, log_probs = make(seed)
    prepared = METHODS[name].prepared(batch)
    mask = batch.action_mask
    found = (
        prepared.advantages if prepared.advantages.ndim == 2 else prepared.advantages.unsqueeze(1).expand(mask.shape)
    )
    expected = torch.tensor(ADVANTAGES[name](data_of(batch, log_probs)), dtype=torch.float64)
    expected = expected if expected.ndim == 2 else expected.unsqueeze(1).expand(mask.shape)
    assert (found - expected)[mask].abs().max() <= exact
    assert torch.equal(prepared.outcome_advantages, with_advantages(batch, "std", None).advantages)


def test_every_selection_and_every_run_of_conflicts_acts_in_these_batches() -> None:
    for name, method in METHODS.items():
        if method.selections:
            gradients = [whole(method, *make(seed))[1] for seed in (0, 1)]
            still = [whole(METHODS["grpo"], *make(seed))[1] for seed in (0, 1)]
            assert not all(map(torch.equal, gradients, still)), name
    batch = make(0)[0]
    factor = METHODS["gtpo"].prepared(batch).advantages / with_advantages(batch, "std", None).advantages.unsqueeze(1)
    assert {0.0, 1.0, 2.0} <= set(factor[batch.action_mask & factor.isfinite()].tolist())


@pytest.mark.parametrize(("ranks", "rows", "packed"), [(2, 3, False), pytest.param(3, 2, True, marks=pytest.mark.slow)])
def test_a_gradient_depends_on_neither_micro_batches_nor_ranks(
    method: Method, ranks: int, rows: int, packed: bool, exact: float
) -> None:
    batch, log_probs = make(3)
    expected, expected_gradient = whole(method, batch, log_probs)
    batch = method.prepared(batch)
    denominators = method.objective.denominators(batch)
    value, gradient = torch.zeros_like(expected), torch.zeros_like(log_probs)
    for rank in range(ranks):
        for chosen, part in batch.micro_batches(MicroBatchLimits(rows), rank, ranks, packed=packed):
            width = part.input_ids.shape[1]
            if len(chosen):
                loss, found = share(method.objective, log_probs[chosen, :width], part, denominators)
                gradient[chosen, :width] = found
                value += loss
            else:
                nothing = torch.full((1, width), math.nan, dtype=value.dtype)
                loss, found = share(method.objective, nothing, part, denominators)
                assert loss == 0
                assert not found.any()
    assert expected != 0
    assert abs(value - expected) <= exact
    assert (gradient - expected_gradient).abs().max() <= exact


@pytest.mark.parametrize("fill", [math.nan, pytest.param(math.inf, marks=pytest.mark.slow)])
def test_padding_and_what_stands_off_the_actions_change_nothing(method: Method, fill: float, exact: float) -> None:
    batch, log_probs = make(4)
    expected, expected_gradient = whole(method, batch, log_probs)
    mask = batch.action_mask
    read = mask | observation_mask(batch) if any(term.reads_observations for term in method.terms) else mask

    def wide(values: Tensor, pad: float, keep: Tensor | None = None) -> Tensor:
        values = values if keep is None else torch.where(keep, values, torch.full_like(values, fill))
        return torch.nn.functional.pad(values, (0, 4), value=pad)

    assert batch.old_log_probs is not None
    assert batch.old_entropy is not None
    assert batch.old_proxy is not None
    assert batch.influence is not None
    padded = replace(
        batch,
        input_ids=wide(batch.input_ids, 0),
        attention_mask=wide(batch.attention_mask, 0),
        action_index=wide(batch.action_index, -1),
        answer_mask=wide(batch.answer_mask, False),
        behavior_log_probs=wide(batch.behavior_log_probs, fill, mask),
        old_log_probs=wide(batch.old_log_probs, fill, mask),
        old_entropy=wide(batch.old_entropy, fill, mask),
        old_proxy=wide(batch.old_proxy, fill, mask),
        influence=wide(batch.influence, fill, mask),
    )
    value, gradient = whole(method, padded, wide(log_probs, fill, read))
    assert abs(value - expected) <= exact
    assert (gradient[:, :-4] - expected_gradient).abs().max() <= exact
    assert not gradient[:, -4:].any()


def test_row_order_changes_nothing(method: Method, exact: float) -> None:
    batch, log_probs = make(5)
    order = torch.tensor([7, 3, 11, 0, 1, 6, 2, 10, 9, 8, 5, 4])
    expected, expected_gradient = whole(method, batch, log_probs)
    value, gradient = whole(method, reordered(batch, order), log_probs[order, : int(batch.lengths.max())])
    assert abs(value - expected) <= exact
    assert (gradient - expected_gradient[order, : gradient.shape[1]]).abs().max() <= exact


def test_where_nothing_has_moved_the_gradient_is_that_of_reinforce(method: Method, exact: float) -> None:
    batch, _ = make(6)
    assert batch.old_log_probs is not None
    still = replace(batch, behavior_log_probs=batch.old_log_probs)
    _, gradient = whole(method, still, batch.old_log_probs)
    prepared = method.prepared(still)
    index = loss_batch(prepared).policy_index
    by = (index >= 0).sum(1, keepdim=True).clamp(min=1)
    if vars(method.loss).get("aggregation", "trajectory") != "trajectory":
        by = torch.ones_like(by)
    expected = -torch.where(index >= 0, by_token(prepared.advantages) / by, 0)
    expected = expected / method.objective.denominators(prepared)["policy"]
    gap = (gradient - expected).abs().max()
    assert gap <= exact if method.is_reinforce else gap > exact


def test_an_advantage_of_the_other_sign_gives_the_other_direction() -> None:
    batch, _ = make(6)
    assert batch.old_log_probs is not None
    batch = with_advantages(replace(batch, behavior_log_probs=batch.old_log_probs), "std", None)
    for name, method in METHODS.items():
        if method.is_reinforce:
            for sign in (1, -1):
                turned = replace(batch, advantages=sign * batch.advantages)
                slope = share(method.objective, batch.old_log_probs, turned, method.objective.denominators(turned))[1]
                assert ((slope * sign * batch.advantages.unsqueeze(1)) <= 0).all(), name
                assert slope.any()


def test_llds_preserves_by_the_outcome_whatever_weighs_the_policy_loss() -> None:
    batch, log_probs = make(0)
    for advantages in (None, losses.SignedAdvantages(), losses.ReinforcePlusPlusAdvantages(discount=0.9)):
        prepared = with_advantages(batch, "std", advantages)
        objective = Objective(losses.GRPOLoss(), None, losses.LLDSPenalty(gate="token"))
        found = objective.signals(log_probs, prepared, objective.denominators(prepared))
        assert found["llds/preserved"] == 8 - 1  # the right ones, and the group that is all wrong; one never acts


def test_a_selection_that_needs_what_the_batch_has_not_says_so() -> None:
    batch = replace(make()[0], is_void=None, old_entropy=None)
    for selection, name in ((losses.VoidTurns(), "is_void"), (losses.HighEntropyTokens(), "old_entropy")):
        with pytest.raises(ConfigurationError, match=f"Expected `{name}` for {type(selection).__name__}"):
            with_selection(batch, [selection])


def test_a_loss_without_a_term_per_token_refuses_what_penalizes_tokens() -> None:
    batch, log_probs = make()
    for selection in (losses.KLCov(0.2), losses.LpReg(0.4)):
        for loss in (losses.GSPOLoss(), losses.GMPOLoss()):
            with pytest.raises(ConfigurationError, match=f"got {type(loss).__name__}. Use GRPOLoss"):
                whole(Method(plain, loss, selections=[selection]), batch, log_probs)
    twice = Method(plain, selections=[losses.LpReg(0.4), losses.LpReg(0.4, 2.0)]).prepared(batch)
    once = Method(plain, selections=[losses.LpReg(0.4, 3.0)]).prepared(batch)
    assert torch.equal(twice.loss_pulls, once.loss_pulls)
    with pytest.raises(ConfigurationError, match="Expected one `proxy_share`"):
        proxy_share([losses.LpReg(), losses.KLCov(), losses.LpReg(proxy_share=0.1)])


def test_kl_cov_holds_nothing_where_all_advantages_are_equal() -> None:
    batch = with_advantages(make()[0], "std", None)
    assert with_selection(batch, [losses.KLCov(0.2)]).loss_penalties.any()
    for value in (0.0, -1.0):
        alike = replace(batch, advantages=torch.full_like(batch.advantages, value))
        assert not with_selection(alike, [losses.KLCov(0.2)]).loss_penalties.any()


@pytest.mark.parametrize(
    "loss", [losses.GSPOLoss(), losses.GMPOLoss(clip_high=200.0)], ids=lambda one: type(one).__name__
)
def test_a_trajectory_of_weight_0_has_no_part_however_far_it_went(loss: losses.Loss) -> None:
    log_probs = torch.tensor([[100.0], [0.0]], requires_grad=True)
    inputs = losses.LossInputs(
        log_probs=log_probs,
        old_log_probs=torch.zeros(2, 1),
        anchor_log_probs=torch.zeros(2, 1),
        advantages=torch.tensor([-1.0, 1.0]),
        action_index=torch.zeros(2, 1, dtype=torch.long),
        loss_weights=torch.tensor([[0.0], [1.0]]),
    )
    found = loss(inputs).loss
    found.backward()
    assert found.item() == pytest.approx(-0.5)
    assert log_probs.grad is not None
    assert log_probs.grad.flatten().tolist() == pytest.approx([0.0, -0.5])


def test_a_token_without_an_advantage_has_nothing_to_clip() -> None:
    arguments = {"old_log_probs": torch.zeros(1, 2), "action_index": torch.zeros(1, 2, dtype=torch.long)}
    moved = torch.full((1, 2), 0.5)
    found = losses.grpo_loss(moved, advantages=torch.zeros(1), **arguments).metrics
    assert found["policy/clip_share"] == 0.0
    assert losses.grpo_loss(moved, advantages=torch.ones(1), **arguments).metrics["policy/clip_share"] == 1.0


def test_a_further_term_of_weight_0_is_off_but_one_that_gets_a_weight_is_not() -> None:
    def names(*terms: losses.Loss) -> list[str]:
        return list(Objective(losses.GRPOLoss(), None, None, further=terms).terms)

    assert names(losses.ObservationNLL(0.0), losses.EntropyBonus(0.0), losses.PositiveNLL(0.1)) == [
        "policy",
        "positive_nll",
    ]
    assert names(losses.EntropyBonus(0.0, target=0.2)) == ["policy", "entropy"]
    assert not losses.EntropyBonus(0.1, target=0.2).is_acting  # only after an iteration below the target
    assert losses.EntropyBonus(0.1).is_acting


def test_an_estimator_that_reweighs_reads_what_the_other_reads() -> None:
    gain = losses.NegativeWeight(0.5, losses.IGPOAdvantages(opening="A: "))
    assert (gain.answer_opening, gain.reads_influence) == ("A: ", False)
    both = losses.NTHRAdvantages(of=gain)
    assert (both.answer_opening, both.reads_influence) == ("A: ", True)
    assert losses.NegativeWeight(0.5, losses.NTHRAdvantages()).reads_influence
    assert losses.IGPOAdvantages(part="form").answer_opening is None
    assert losses.GroupAdvantages().answer_opening is None


def test_equal_values_are_selected_together() -> None:
    batch = replace(make()[0], old_entropy=torch.ones(12, 18, dtype=torch.float64))
    assert (with_selection(batch, [losses.HighEntropyTokens(0.1)]).loss_weights == batch.action_mask).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: losses.GRPOLoss(aggregation="constant"), "exactly where `aggregation` is `constant`"),
        (lambda: losses.CISPOLoss(constant_tokens=9), "exactly where `aggregation` is `constant`"),
        (lambda: losses.CISPOLoss(max_ratio=0.9), "`max_ratio` > 1"),
        (lambda: losses.SAPOLoss(tau_negative=0), "`SAPOLoss.tau_negative` > 0"),
        (lambda: losses.DPPOLoss("js"), "`divergence` to be one of"),
        (lambda: losses.IPOLoss(delta=1.0), "`delta` of IPOLoss"),
        (lambda: losses.ReinforcePlusPlusAdvantages(True, 0.9), "`discount` in"),
        (lambda: losses.SignedAdvantages(0, 0), "not both 0"),
        (lambda: losses.NegativeWeight(1.5), r"\[0, 1\]"),
        (lambda: losses.ConflictAdvantages(0.5), ">= 1"),
        (lambda: losses.GiGPOAdvantages(discount=0), "`discount` in"),
        (lambda: losses.ImportanceMask(1.2, 2), "band of ratios"),
        (lambda: losses.Rejection("k1", "max"), "token, sum or mean for k1"),
        (lambda: losses.KLCov(share=1.0), "`share` of a selection"),
        (lambda: losses.ClipCov(low=2, high=1), "`low` < `high`"),
        (lambda: losses.LpReg(proxy_share=1.0), "`proxy_share` of LpReg"),
        (lambda: losses.NTHRAdvantages(weight=1.5), "`weight` of NTHRAdvantages"),
        (lambda: losses.NTHRAdvantages(scale=0.0), "`NTHRAdvantages.scale` > 0"),
        (lambda: losses.GroupAdvantages(eps=0.0), "`GroupAdvantages.eps` > 0"),
        (lambda: losses.KLCov(coefficient=float("inf")), "`KLCov.coefficient` > 0, got inf"),
        (lambda: losses.SignedAdvantages(float("inf"), 0.0), "weights >= 0 of SignedAdvantages"),
        (
            lambda: losses.ConflictAdvantages(of=losses.NTHRAdvantages()),
            "NTHRAdvantages, which gives one per token",
        ),
        (lambda: losses.Rejection("k2", low=0.5), "`low` of Rejection with k1 only"),
        (lambda: losses.IGPOAdvantages(opening="Answer: ", part="form"), "`opening` of IGPOAdvantages"),
        (lambda: losses.LLDSPenalty(0.0, target_rate=0.2), "above 0 where `target_rate` moves it"),
        (lambda: losses.MTGRPOAdvantages(1.1), "`discount` in"),
        (lambda: losses.IGPOAdvantages(-0.1), "`discount` in"),
        (lambda: losses.GDPOAdvantages().check_reward({"reward": 1.0}), "several parts for GDPOAdvantages"),
        (lambda: losses.MTGRPOAdvantages().check_reward({"answer": None}), "a part of `rollout.reward` to say"),
        (lambda: losses.IGPOAdvantages(part="form").check_reward({"form": None}), "'form' of `rollout.reward`"),
        (lambda: losses.MTGRPOAdvantages().check_reward({"form": 0.0, "answer": None}), r"of which form \(weight 0\)"),
        (lambda: losses.NTHRAdvantages(of=losses.GDPOAdvantages()).check_reward({"reward": 1.0}), "several parts"),
        (lambda: losses.LLDSPenalty(target_rate=1.5), "`llds_penalty.target_rate`"),
    ],
)
def test_settings_that_cannot_work_are_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build()


def test_lambda_follows_its_target_within_bounds() -> None:
    penalty = losses.LLDSPenalty(0.2, target_rate=0.2)
    for rate, expected in ((0.25, 0.2), (0.31, 0.3), (0.9, 0.45), (0.1, 0.3), (None, 0.3)):
        penalty.adapt({} if rate is None else {"llds/lld_rate": rate})
        assert penalty.coefficient == pytest.approx(expected)
    for _ in range(20):
        penalty.adapt({"llds/lld_rate": 1.0})
    assert penalty.coefficient == pytest.approx(3.2)
    assert penalty.adapted() == {"coefficient": penalty.coefficient}
    still = losses.LLDSPenalty()
    still.adapt({"llds/lld_rate": 1.0})
    assert (still.coefficient, still.adapted()) == (0.2, {})


def test_the_entropy_bonus_acts_below_its_target_and_adapts() -> None:
    bonus = losses.EntropyBonus(0.01, target=0.5)
    course = []
    for entropy in (0.4, 0.5, 0.6, 0.6, 0.6, 0.6, 0.4):
        bonus.adapt({"policy/entropy": entropy})
        course.append((round(bonus.coefficient, 9), bonus.is_acting))
    assert course == [
        (0.015, True), (0.02, True), (0.015, False), (0.01, False), (0.005, False), (0.0, False), (0.005, True)
    ]  # fmt: skip
    batch, log_probs = make()
    batch = with_advantages(batch, "std", None)
    bonus.is_acting = False
    off = Objective(losses.GRPOLoss(), None, None, further=[bonus])
    without = Objective(losses.GRPOLoss(), None, None)
    assert torch.equal(
        share(off, log_probs, batch, off.denominators(batch))[1],
        share(without, log_probs, batch, without.denominators(batch))[1],
    )


VERL: dict[str, tuple[losses.Loss, float]] = {
    "vanilla": (losses.GRPOLoss(0.2, 0.28, max_ratio=1.3), 1e-8),
    "dppo_tv": (losses.DPPOLoss("tv", 0.05, 0.08, 1.3), 1e-12),
    "dppo_kl": (losses.DPPOLoss("kl", 0.01, 0.02, 20.0), 1e-12),
    "sapo": (losses.SAPOLoss(), 1e-8),
    "geo_mean": (losses.GMPOLoss(0.2, 0.1), 1e-8),
    "cispo": (losses.CISPOLoss(1.25, 0.2), 1e-12),
}
"""Each of verl's losses here, and how far it may be off: verl adds 1e-8 to the length of a sequence."""


@pytest.fixture(scope="module")
def verl() -> tuple[dict[str, Any], PolicyBatch]:
    """What `tools/verl_vectors.py` recorded, and its trajectories behind a prompt of one token."""
    recorded = json.loads((Path(__file__).parents[2] / "recordings" / "verl.json").read_text())

    def wide(name: str) -> Tensor:
        return torch.nn.functional.pad(torch.tensor(recorded[name], dtype=torch.float64), (1, 0))

    index = torch.where(wide("mask") > 0, 0, -1)
    batch = PolicyBatch(
        input_ids=torch.zeros_like(index),
        attention_mask=torch.ones_like(index),
        action_index=index,
        answer_mask=index > 9,
        behavior_log_probs=wide("old_log_probs"),
        rewards=torch.tensor(recorded["rewards"], dtype=torch.float64),
        correct=torch.tensor(recorded["rewards"]) > 0,
        advantages=torch.tensor(recorded["advantages"], dtype=torch.float64),
        groups=torch.tensor(recorded["groups"]),
        old_log_probs=wide("old_log_probs"),
        reward_parts=losses.RewardParts(
            ("answer", "form"),
            torch.tensor([1.0, 0.25]),
            torch.tensor([recorded["rewards"], recorded["form"]], dtype=torch.float64).t(),
            torch.full((6, 2, 1), math.nan),
        ),
    )
    return recorded | {"wide": wide("log_probs")}, batch


@pytest.mark.parametrize("name", VERL)
def test_losses_are_those_that_verl_computes(name: str, verl: tuple[dict[str, Any], PolicyBatch]) -> None:
    recorded, batch = verl
    loss, tolerance = VERL[name]
    objective = Objective(loss, None, None)
    value, gradient = share(objective, recorded["wide"], batch, objective.denominators(batch))
    assert value.item() == pytest.approx(recorded["losses"][name]["loss"], abs=tolerance)
    expected = torch.tensor(recorded["losses"][name]["gradient"], dtype=torch.float64)
    assert (gradient[:, 1:] - expected).abs().max() <= tolerance


@pytest.mark.parametrize("name", ["grpo", "gdpo", "rloo", "reinforce_pp_discounted", "reinforce_pp_baseline"])
def test_advantages_are_those_that_verl_computes(name: str, verl: tuple[dict[str, Any], PolicyBatch]) -> None:
    recorded, batch = verl
    found = by_token(METHODS[name].prepared(batch).advantages).expand(6, 10)[:, 1:]
    expected = torch.tensor(recorded["advantages_of"][name], dtype=torch.float64)
    # verl adds 1e-8 to the number of tokens, and takes the parts of a reward in fp32
    tolerance = 1e-6 if name == "gdpo" else 1e-8 if name.startswith("reinforce") else 1e-12
    assert torch.where(batch.action_mask[:, 1:], found - expected, 0).abs().max() <= tolerance

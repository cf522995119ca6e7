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

from llds.batches import PolicyBatch
from llds.batches.loss_inputs import loss_batch, observation_mask, with_advantages, with_selection
from llds.batches.micro_batches import MicroBatchLimits
from llds.errors import ConfigurationError
from llds.losses import (
    Advantages,
    CISPOLoss,
    ClipCov,
    ConflictAdvantages,
    DPPOLoss,
    EntropyBonus,
    GiGPOAdvantages,
    GMPOLoss,
    GroupAdvantages,
    GRPOLoss,
    GSPOLoss,
    HighEntropyTokens,
    ImportanceMask,
    IPOLoss,
    KLCov,
    LLDSPenalty,
    Loss,
    NegativeWeight,
    ObservationNLL,
    OffPolicySequenceMask,
    PositiveNLL,
    ReinforcePlusPlusAdvantages,
    Rejection,
    RLOOAdvantages,
    SAPOLoss,
    Selection,
    SignedAdvantages,
    TurnRatioLoss,
    VoidTurns,
    WAPOLoss,
)
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
    loss: Loss = field(default_factory=GRPOLoss)
    advantages: Advantages | None = None
    selections: Sequence[Selection] = ()
    terms: Sequence[Loss] = ()
    is_reinforce: bool = True
    llds: LLDSPenalty | None = None

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
    "dual_clip": Method(lambda data: oracle.policy(data, oracle.grpo(most=1.25)), GRPOLoss(max_ratio=1.25)),
    "dr_grpo": Method(
        lambda data: oracle.policy(data, oracle.grpo(), "constant", 9),
        GRPOLoss(aggregation="constant", constant_tokens=9),
        GroupAdvantages("none"),
    ),
    "rloo": Method(plain, advantages=RLOOAdvantages()),
    "reinforce_pp": Method(plain, advantages=ReinforcePlusPlusAdvantages()),
    "reinforce_pp_discounted": Method(plain, advantages=ReinforcePlusPlusAdvantages(discount=0.9)),
    "reinforce_pp_baseline": Method(plain, advantages=ReinforcePlusPlusAdvantages(baseline=True)),
    "w_reinforce": Method(plain, advantages=SignedAdvantages()),
    "psr": Method(plain, advantages=SignedAdvantages(1.0, 0.0)),
    "nsr": Method(plain, advantages=SignedAdvantages(0.0, 1.0)),
    "negative_weight": Method(plain, advantages=NegativeWeight(0.5)),
    "gtpo": Method(plain, advantages=ConflictAdvantages()),
    "gigpo": Method(plain, advantages=GiGPOAdvantages(0.5)),
    "gigpo_unscaled": Method(plain, advantages=GiGPOAdvantages(1.0, 0.8, "none")),
    "cispo": Method(of_term(oracle.cispo(1.3, 1.0)), CISPOLoss(1.3)),
    "cispo_two_sided": Method(of_term(oracle.cispo(1.3, 0.2)), CISPOLoss(1.3, 0.2)),
    "cispo_llds": Method(of_term(oracle.cispo(5.0, 1.0)), CISPOLoss(), llds=LLDSPenalty()),
    "sapo": Method(of_term(oracle.sapo(1.0, 1.05), "trajectory"), SAPOLoss()),
    "wapo": Method(of_term(oracle.wapo(0.3), "trajectory"), WAPOLoss(0.3), is_reinforce=False),
    "dppo_tv": Method(of_term(oracle.dppo("tv", 0.1, 0.15, 1.4)), DPPOLoss("tv", 0.1, 0.15, 1.4)),
    "dppo_kl": Method(of_term(oracle.dppo("kl", 0.01, 0.02, 20.0)), DPPOLoss("kl", 0.01, 0.02)),
    "ipo": Method(of_term(oracle.ipo(0.15, 0.01)), IPOLoss(0.15, 0.01)),
    "gmpo": Method(lambda data: oracle.gmpo(data, 0.2, 0.1), GMPOLoss(0.2, 0.1)),
    "turn_ratio": Method(lambda data: oracle.turn_ratio(data, 0.05, 0.1), TurnRatioLoss(0.05, 0.1)),
    "gspo": Method(gspo_by_rows, GSPOLoss(0.05, 0.05)),
    "void_turns": Method(of_grpo(excluded=void), selections=[VoidTurns()]),
    "opsm": Method(of_grpo(weights=drifted), selections=[OffPolicySequenceMask(0.05)]),
    "icepop": Method(of_grpo(weights=popped), selections=[ImportanceMask(0.8, 1.3)]),
    "icepop_sequence": Method(of_grpo(weights=popped_rows), selections=[ImportanceMask(0.5, 2.0, "sequence")]),
    **{
        f"reject_{kind}_{over}": Method(
            of_grpo(excluded=rejected(kind, over, 0.7, high)), selections=[Rejection(kind, over, high, 0.7)]
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
    "kl_cov": Method(uncut, GRPOLoss(**NO_CLIP), selections=[KLCov(0.2, 1.0)]),
    "clip_cov": Method(of_grpo(weights=clip_cov), selections=[ClipCov(0.1, 0.1, 2.0)], is_reinforce=False),
    "high_entropy": Method(of_grpo(weights=high_entropy), selections=[HighEntropyTokens(0.3)], is_reinforce=False),
    "positive_nll": Method(positive_nll, terms=[PositiveNLL()], is_reinforce=False),
    "entropy_bonus": Method(entropy_bonus, terms=[EntropyBonus(0.01)], is_reinforce=False),
    "echo": Method(echo, terms=[ObservationNLL()], is_reinforce=False),
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
    )
    return batch, (old + 0.25 * noise[1]).clamp(max=-0.01)


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
    padded = replace(
        batch,
        input_ids=wide(batch.input_ids, 0),
        attention_mask=wide(batch.attention_mask, 0),
        action_index=wide(batch.action_index, -1),
        answer_mask=wide(batch.answer_mask, False),
        behavior_log_probs=wide(batch.behavior_log_probs, fill, mask),
        old_log_probs=wide(batch.old_log_probs, fill, mask),
        old_entropy=wide(batch.old_entropy, fill, mask),
    )
    value, gradient = whole(method, padded, wide(log_probs, fill, read))
    assert abs(value - expected) <= exact
    assert (gradient[:, :-4] - expected_gradient).abs().max() <= exact
    assert not gradient[:, -4:].any()


def test_row_order_changes_nothing(method: Method, exact: float) -> None:
    batch, log_probs = make(5)
    order = torch.tensor([7, 3, 11, 0, 1, 6, 2, 10, 9, 8, 5, 4])
    expected, expected_gradient = whole(method, batch, log_probs)
    value, gradient = whole(method, batch.rows(order), log_probs[order, : int(batch.lengths.max())])
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
    for advantages in (None, SignedAdvantages(), ReinforcePlusPlusAdvantages(discount=0.9)):
        prepared = with_advantages(batch, "std", advantages)
        objective = Objective(GRPOLoss(), None, LLDSPenalty(gate="token"))
        found = objective.signals(log_probs, prepared, objective.denominators(prepared))
        assert found["llds/preserved"] == 8 - 1  # the right ones, and the group that is all wrong; one never acts


def test_a_selection_that_needs_what_the_batch_has_not_says_so() -> None:
    batch = replace(make()[0], is_void=None, old_entropy=None)
    for selection, name in ((VoidTurns(), "is_void"), (HighEntropyTokens(), "old_entropy")):
        with pytest.raises(ConfigurationError, match=f"Expected `{name}` for {type(selection).__name__}"):
            with_selection(batch, [selection])


def test_equal_values_are_selected_together() -> None:
    batch = replace(make()[0], old_entropy=torch.ones(12, 18, dtype=torch.float64))
    assert (with_selection(batch, [HighEntropyTokens(0.1)]).loss_weights == batch.action_mask).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GRPOLoss(aggregation="constant"), "exactly where `aggregation` is `constant`"),
        (lambda: CISPOLoss(constant_tokens=9), "exactly where `aggregation` is `constant`"),
        (lambda: CISPOLoss(max_ratio=0.9), "`max_ratio` > 1"),
        (lambda: SAPOLoss(tau_negative=0), "`tau_negative` > 0"),
        (lambda: DPPOLoss("js"), "`divergence` to be one of"),
        (lambda: IPOLoss(delta=1.0), "`delta` of IPOLoss"),
        (lambda: ReinforcePlusPlusAdvantages(True, 0.9), "`discount` in"),
        (lambda: SignedAdvantages(0, 0), "not both 0"),
        (lambda: NegativeWeight(1.5), r"\[0, 1\]"),
        (lambda: ConflictAdvantages(0.5), ">= 1"),
        (lambda: GiGPOAdvantages(discount=0), "`discount` in"),
        (lambda: ImportanceMask(1.2, 2), "band of ratios"),
        (lambda: Rejection("k1", "max"), "token, sum or mean for k1"),
        (lambda: KLCov(share=1.0), "`share` of a selection"),
        (lambda: ClipCov(low=2, high=1), "`low` < `high`"),
        (lambda: LLDSPenalty(target_rate=1.5), "`llds_penalty.target_rate`"),
    ],
)
def test_settings_that_cannot_work_are_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build()


def test_lambda_follows_its_target_within_bounds() -> None:
    penalty = LLDSPenalty(0.2, target_rate=0.2)
    for rate, expected in ((0.25, 0.2), (0.31, 0.3), (0.9, 0.45), (0.1, 0.3), (None, 0.3)):
        penalty.adapt({} if rate is None else {"llds/lld_rate": rate})
        assert penalty.coefficient == pytest.approx(expected)
    for _ in range(20):
        penalty.adapt({"llds/lld_rate": 1.0})
    assert penalty.coefficient == pytest.approx(3.2)
    assert penalty.adapted() == {"coefficient": penalty.coefficient}
    still = LLDSPenalty()
    still.adapt({"llds/lld_rate": 1.0})
    assert (still.coefficient, still.adapted()) == (0.2, {})


def test_the_entropy_bonus_acts_below_its_target_and_adapts() -> None:
    bonus = EntropyBonus(0.01, target=0.5)
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
    off = Objective(GRPOLoss(), None, None, further=[bonus])
    without = Objective(GRPOLoss(), None, None)
    assert torch.equal(
        share(off, log_probs, batch, off.denominators(batch))[1],
        share(without, log_probs, batch, without.denominators(batch))[1],
    )


VERL: dict[str, tuple[Loss, float]] = {
    "vanilla": (GRPOLoss(0.2, 0.28, max_ratio=1.3), 1e-8),
    "dppo_tv": (DPPOLoss("tv", 0.05, 0.08, 1.3), 1e-12),
    "dppo_kl": (DPPOLoss("kl", 0.01, 0.02, 20.0), 1e-12),
    "sapo": (SAPOLoss(), 1e-8),
    "geo_mean": (GMPOLoss(0.2, 0.1), 1e-8),
    "cispo": (CISPOLoss(1.25, 0.2), 1e-12),
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


@pytest.mark.parametrize("name", ["grpo", "rloo", "reinforce_pp_discounted", "reinforce_pp_baseline"])
def test_advantages_are_those_that_verl_computes(name: str, verl: tuple[dict[str, Any], PolicyBatch]) -> None:
    recorded, batch = verl
    found = by_token(METHODS[name].prepared(batch).advantages).expand(6, 10)[:, 1:]
    expected = torch.tensor(recorded["advantages_of"][name], dtype=torch.float64)
    tolerance = 1e-8 if name.startswith("reinforce") else 1e-12  # verl adds 1e-8 to the number of tokens
    assert torch.where(batch.action_mask[:, 1:], found - expected, 0).abs().max() <= tolerance

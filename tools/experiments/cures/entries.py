"""The entries of the bench: each cure with three values of its own knob, as arguments of a training.

A cure without a knob has one value. All train without LLDS but those that are LLDS, and the pairs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llds.losses import (
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
    IPOLoss,
    KLCov,
    NegativeWeight,
    ObservationNLL,
    OffPolicySequenceMask,
    PositiveNLL,
    ReinforcePlusPlusAdvantages,
    RLOOAdvantages,
    SAPOLoss,
    SignedAdvantages,
    TurnRatioLoss,
    VoidTurns,
    WAPOLoss,
)

CONSTANT_TOKENS = 36
"""Longest sum of actions of the small task: two turns and a last action, of 12 tokens each."""


@dataclass(frozen=True)
class Changes:
    """What a cure changes of plain GRPO.

    Attributes:
        module: Arguments of the module.
        llds: Arguments of the LLDS penalty; without, its coefficient is 0.
        kl: Coefficient of the KL penalty.
        rate: Times the learning rate.
    """

    module: Mapping[str, Any] = field(default_factory=dict)
    llds: Mapping[str, Any] = field(default_factory=lambda: {"coefficient": 0.0})
    kl: float = 0.0
    rate: float = 1.0


@dataclass(frozen=True)
class Entry:
    """A cure.

    Attributes:
        name: In the table.
        make: The changes at a value of its knob.
        values: Of the knob, of which one is chosen; the first is the usual one.
    """

    name: str
    make: Callable[[float], Changes]
    values: tuple[float, ...] = (0.0,)


def _loss(build: Callable[[float], Any]) -> Callable[[float], Changes]:
    return lambda value: Changes({"policy_loss": build(value)})


def _advantages(build: Callable[[float], Any]) -> Callable[[float], Changes]:
    return lambda value: Changes({"advantages": build(value)})


def _term(build: Callable[[float], Any]) -> Callable[[float], Changes]:
    return lambda value: Changes({"terms": [build(value)]})


def _selection(build: Callable[[float], Any]) -> Callable[[float], Changes]:
    return lambda value: Changes({"selections": [build(value)]})


def _llds(**kwargs: Any) -> Callable[[float], Changes]:
    return lambda value: Changes(llds={"coefficient": value, **kwargs})


def _dr_grpo(tokens: float) -> Changes:
    loss = GRPOLoss(aggregation="constant", constant_tokens=int(tokens))
    return Changes({"advantages": GroupAdvantages("none"), "policy_loss": loss})


def _wapo(epsilon: float) -> Changes:
    loss = WAPOLoss(epsilon, "constant", CONSTANT_TOKENS)
    return Changes({"advantages": GroupAdvantages("none"), "policy_loss": loss})


def _kl_cov(share: float) -> Changes:
    return Changes({"policy_loss": GRPOLoss(1.0, 1e9), "selections": [KLCov(share)]})


ENTRIES = (
    Entry("grpo", lambda _: Changes()),
    Entry("half_rate", lambda value: Changes(rate=value), (0.5,)),
    Entry("kl", lambda value: Changes(kl=value), (0.001, 0.01, 0.1)),
    Entry("llds_0.2", _llds(), (0.2,)),
    Entry("llds_1", _llds(), (1.0,)),
    Entry("llds_positive", _llds(preserve="positive"), (1.0, 0.2, 5.0)),
    Entry("llds_frozen", _llds(anchor="frozen"), (1.0, 0.2, 5.0)),
    Entry("llds_adaptive", lambda value: Changes(llds={"coefficient": 0.2, "target_rate": value}), (0.2, 0.1, 0.3)),
    Entry("dr_grpo", _dr_grpo, (CONSTANT_TOKENS, 12, 24)),
    Entry("rloo", _advantages(lambda _: RLOOAdvantages())),
    Entry("reinforce_pp", _advantages(lambda value: ReinforcePlusPlusAdvantages(discount=value)), (1.0, 0.99, 0.95)),
    Entry("reinforce_pp_baseline", _advantages(lambda _: ReinforcePlusPlusAdvantages(baseline=True))),
    Entry("w_reinforce", _advantages(lambda value: SignedAdvantages(value, 1.0)), (0.1, 0.3, 1.0)),
    Entry("psr", _advantages(lambda _: SignedAdvantages(1.0, 0.0))),
    Entry("nsr", _advantages(lambda _: SignedAdvantages(0.0, 1.0))),
    Entry("negative_weight", _advantages(NegativeWeight), (0.5, 0.25, 0.1)),
    Entry("wapo", _wapo, (9.0, 1.0, 0.2)),
    Entry("gtpo", _advantages(ConflictAdvantages), (2.0, 1.5, 1.0)),
    Entry("gigpo", _advantages(GiGPOAdvantages), (1.0, 0.5, 0.25)),
    Entry("cispo", _loss(CISPOLoss), (5.0, 2.0, 8.0)),
    Entry("sapo", _loss(lambda value: SAPOLoss(1.0, value)), (1.05, 1.5, 2.0)),
    Entry("gmpo", _loss(lambda value: GMPOLoss(value, value)), (0.4, 0.2, 0.1)),
    Entry("dual_clip", _loss(lambda value: GRPOLoss(max_ratio=value)), (3.0, 1.5, 10.0)),
    Entry("gspo", _loss(lambda value: GSPOLoss(value, value)), (3e-4, 3e-3, 3e-2)),
    Entry("turn_ratio", _loss(lambda value: TurnRatioLoss(value, value)), (3e-3, 3e-2, 1e-1)),
    Entry("dppo_tv", _loss(lambda value: DPPOLoss("tv", value, value)), (0.2, 0.1, 0.05)),
    Entry("dppo_kl", _loss(lambda value: DPPOLoss("kl", value, value)), (0.05, 0.02, 0.2)),
    Entry("ipo", _loss(IPOLoss), (0.3, 0.1, 0.05)),
    Entry("positive_nll", _term(PositiveNLL), (0.1, 0.03, 0.3)),
    Entry("entropy_bonus", _term(EntropyBonus), (1e-3, 1e-4, 1e-2)),
    Entry("adaptive_entropy", _term(lambda value: EntropyBonus(0.0, value)), (0.2, 0.1, 0.4)),
    Entry("echo", _term(ObservationNLL), (0.1, 0.03, 0.3)),
    Entry("void_turns", _selection(lambda _: VoidTurns())),
    Entry("opsm", _selection(OffPolicySequenceMask), (0.1, 0.02, 0.5)),
    Entry("kl_cov", _kl_cov, (0.002, 0.02, 0.1)),
    Entry("clip_cov", _selection(lambda value: ClipCov(value, 0.5, 20.0)), (0.002, 0.02, 0.1)),
    Entry("high_entropy", _selection(HighEntropyTokens), (0.2, 0.5, 0.8)),
)
BY_NAME = {entry.name: entry for entry in ENTRIES}
PAIR = "+llds"
"""What a cure's name ends with where LLDS (lambda 1, its paper's set) is on top of it."""


def entry_of(name: str) -> Entry:
    """The entry of this name, a pair's too.

    Raises:
        KeyError: If there is none.
    """
    base = BY_NAME[name.removesuffix(PAIR)]
    if not name.endswith(PAIR):
        return base

    def with_llds(value: float) -> Changes:
        changes = base.make(value)
        return Changes(changes.module, {"coefficient": 1.0}, changes.kl, changes.rate)

    return Entry(name, with_llds, base.values)

"""The entries of the bench: each cure with three values of its own knob, as arguments of a training.

A cure without a knob has one value. All train without LLDS but those that are LLDS, and the pairs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from llds import losses
from llds.rewards import ExactMatchReward, FormReward, Reward, SumOfRewards

ANSWER = "answer"
"""Part of a reward that is the exact match of all others."""
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
        reward: None is exact match.
        ladder: The file of `conf/collapse/` that acts on it; empty for none.
    """

    module: Mapping[str, Any] = field(default_factory=dict)
    llds: Mapping[str, Any] = field(default_factory=lambda: {"coefficient": 0.0})
    kl: float = 0.0
    rate: float = 1.0
    reward: Reward | None = None
    ladder: str = ""


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
    loss = losses.GRPOLoss(aggregation="constant", constant_tokens=int(tokens))
    return Changes({"advantages": losses.GroupAdvantages("none"), "policy_loss": loss})


def _wapo(epsilon: float) -> Changes:
    loss = losses.WAPOLoss(epsilon, "constant", CONSTANT_TOKENS)
    return Changes({"advantages": losses.GroupAdvantages("none"), "policy_loss": loss})


def _with_form(weight: float) -> Reward:
    """Exact match as `ANSWER`, and form beside it."""
    return SumOfRewards({ANSWER: ExactMatchReward(), "form": FormReward()}, {"form": weight})


def _gdpo(weight: float) -> Changes:
    return Changes({"advantages": losses.GDPOAdvantages()}, reward=_with_form(weight))


def _mt_grpo(discount: float) -> Changes:
    return Changes({"advantages": losses.MTGRPOAdvantages(discount, "form")}, reward=_with_form(0.0))


def _lp_reg(coefficient: float) -> Changes:
    return Changes({"policy_loss": losses.GRPOLoss(1.0, 9.0), "selections": [losses.LpReg(0.01, coefficient)]})


def _kl_cov(share: float) -> Changes:
    return Changes({"policy_loss": losses.GRPOLoss(1.0, 1e9), "selections": [losses.KLCov(share)]})


ENTRIES = (
    Entry("grpo", lambda _: Changes()),
    Entry("half_rate", lambda value: Changes(rate=value), (0.5,)),
    Entry("protect", lambda _: Changes(ladder="protect")),
    Entry("early", lambda _: Changes(ladder="early")),
    Entry("kl", lambda value: Changes(kl=value), (0.001, 0.01, 0.1)),
    Entry("llds_0.2", _llds(), (0.2,)),
    Entry("llds_1", _llds(), (1.0,)),
    Entry("llds_positive", _llds(preserve="positive"), (1.0, 0.2, 5.0)),
    Entry("llds_frozen", _llds(anchor="frozen"), (1.0, 0.2, 5.0)),
    Entry("llds_adaptive", lambda value: Changes(llds={"coefficient": 0.2, "target_rate": value}), (0.2, 0.1, 0.3)),
    Entry("dr_grpo", _dr_grpo, (CONSTANT_TOKENS, 12, 24)),
    Entry("rloo", _advantages(lambda _: losses.RLOOAdvantages())),
    Entry(
        "reinforce_pp", _advantages(lambda value: losses.ReinforcePlusPlusAdvantages(discount=value)), (1.0, 0.99, 0.95)
    ),
    Entry("reinforce_pp_baseline", _advantages(lambda _: losses.ReinforcePlusPlusAdvantages(baseline=True))),
    Entry("w_reinforce", _advantages(lambda value: losses.SignedAdvantages(value, 1.0)), (0.1, 0.3, 1.0)),
    Entry("psr", _advantages(lambda _: losses.SignedAdvantages(1.0, 0.0))),
    Entry("psr_early", lambda _: Changes({"advantages": losses.SignedAdvantages(1.0, 0.0)}, ladder="early")),
    Entry("nsr", _advantages(lambda _: losses.SignedAdvantages(0.0, 1.0))),
    Entry("negative_weight", _advantages(losses.NegativeWeight), (0.5, 0.25, 0.1)),
    Entry("nthr", _advantages(lambda value: losses.NTHRAdvantages(scale=value)), (1.0, 0.5, 2.0)),
    Entry("gdpo", _gdpo, (0.1, 0.3, 1.0)),
    Entry("mt_grpo", _mt_grpo, (1.0, 0.9, 0.5)),
    Entry("igpo", _advantages(losses.IGPOAdvantages), (1.0, 0.9, 0.5)),
    Entry("wapo", _wapo, (9.0, 1.0, 0.2)),
    Entry("gtpo", _advantages(losses.ConflictAdvantages), (2.0, 1.5, 1.0)),
    Entry("gigpo", _advantages(losses.GiGPOAdvantages), (1.0, 0.5, 0.25)),
    Entry("cispo", _loss(losses.CISPOLoss), (5.0, 2.0, 8.0)),
    Entry("sapo", _loss(lambda value: losses.SAPOLoss(1.0, value)), (1.05, 1.5, 2.0)),
    Entry("gmpo", _loss(lambda value: losses.GMPOLoss(value, value)), (0.4, 0.2, 0.1)),
    Entry("dual_clip", _loss(lambda value: losses.GRPOLoss(max_ratio=value)), (3.0, 1.5, 10.0)),
    Entry("gspo", _loss(lambda value: losses.GSPOLoss(value, value)), (3e-4, 3e-3, 3e-2)),
    Entry("turn_ratio", _loss(lambda value: losses.TurnRatioLoss(value, value)), (3e-3, 3e-2, 1e-1)),
    Entry("dppo_tv", _loss(lambda value: losses.DPPOLoss("tv", value, value)), (0.2, 0.1, 0.05)),
    Entry("dppo_kl", _loss(lambda value: losses.DPPOLoss("kl", value, value)), (0.05, 0.02, 0.2)),
    Entry("ipo", _loss(losses.IPOLoss), (0.3, 0.1, 0.05)),
    Entry("positive_nll", _term(losses.PositiveNLL), (0.1, 0.03, 0.3)),
    Entry("entropy_bonus", _term(losses.EntropyBonus), (1e-3, 1e-4, 1e-2)),
    Entry("adaptive_entropy", _term(lambda value: losses.EntropyBonus(0.0, value)), (0.2, 0.1, 0.4)),
    Entry("echo", _term(losses.ObservationNLL), (0.1, 0.03, 0.3)),
    Entry("void_turns", _selection(lambda _: losses.VoidTurns())),
    Entry("opsm", _selection(losses.OffPolicySequenceMask), (0.1, 0.02, 0.5)),
    Entry("kl_cov", _kl_cov, (0.002, 0.02, 0.1)),
    Entry("clip_cov", _selection(lambda value: losses.ClipCov(value, 0.5, 20.0)), (0.002, 0.02, 0.1)),
    Entry("lp_reg", _lp_reg, (1.0, 0.1, 10.0)),
    Entry("high_entropy", _selection(losses.HighEntropyTokens), (0.2, 0.5, 0.8)),
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
        return replace(changes, llds={"coefficient": 1.0})

    return Entry(name, with_llds, base.values)

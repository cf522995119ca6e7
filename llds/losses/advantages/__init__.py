"""Advantages: how much each trajectory, or each of its tokens, is to become likelier. Once per rollout iteration."""

from llds.losses.advantages.estimator import AdvantageInputs, Advantages, GroupAdvantages, RewardParts
from llds.losses.advantages.group import AdvantageScale, group_advantages
from llds.losses.advantages.influence import NTHRAdvantages
from llds.losses.advantages.outcome import (
    NegativeWeight,
    ReinforcePlusPlusAdvantages,
    RLOOAdvantages,
    SignedAdvantages,
)
from llds.losses.advantages.parts import GDPOAdvantages, IGPOAdvantages, MTGRPOAdvantages
from llds.losses.advantages.tokens import ConflictAdvantages, GiGPOAdvantages

__all__ = [
    "AdvantageInputs",
    "AdvantageScale",
    "Advantages",
    "ConflictAdvantages",
    "GDPOAdvantages",
    "GiGPOAdvantages",
    "GroupAdvantages",
    "IGPOAdvantages",
    "MTGRPOAdvantages",
    "NTHRAdvantages",
    "NegativeWeight",
    "RLOOAdvantages",
    "ReinforcePlusPlusAdvantages",
    "RewardParts",
    "SignedAdvantages",
    "group_advantages",
]

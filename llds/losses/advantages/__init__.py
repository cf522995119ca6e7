"""Advantages: how much each trajectory, or each of its tokens, is to become likelier. Once per rollout iteration."""

from llds.losses.advantages.estimator import AdvantageInputs, Advantages, GroupAdvantages, RewardParts
from llds.losses.advantages.group import AdvantageScale, group_advantages
from llds.losses.advantages.outcome import (
    NegativeWeight,
    ReinforcePlusPlusAdvantages,
    RLOOAdvantages,
    SignedAdvantages,
)
from llds.losses.advantages.tokens import ConflictAdvantages, GiGPOAdvantages

__all__ = [
    "AdvantageInputs",
    "AdvantageScale",
    "Advantages",
    "ConflictAdvantages",
    "GiGPOAdvantages",
    "GroupAdvantages",
    "NegativeWeight",
    "RLOOAdvantages",
    "ReinforcePlusPlusAdvantages",
    "RewardParts",
    "SignedAdvantages",
    "group_advantages",
]

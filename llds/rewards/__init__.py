"""Rewards: what a trajectory is worth, and whether its answer is right."""

from llds.rewards.answers import (
    comparable_answer,
    contains_answer,
    exact_match,
    extract_answer,
    normalize_answer,
    substring_match,
    token_f1,
)
from llds.rewards.base import Reward, SumOfRewards, Value
from llds.rewards.conduct import CallCost, FormReward, GoldPassageReward, OverlongPenalty, SearchR1FormReward
from llds.rewards.function import FunctionReward
from llds.rewards.outcome import EnvironmentReward, ExactMatchReward, F1Reward, SubstringReward

__all__ = [
    "CallCost",
    "EnvironmentReward",
    "ExactMatchReward",
    "F1Reward",
    "FormReward",
    "FunctionReward",
    "GoldPassageReward",
    "JudgeReward",
    "OverlongPenalty",
    "Reward",
    "SearchR1FormReward",
    "SubstringReward",
    "SumOfRewards",
    "Value",
    "comparable_answer",
    "contains_answer",
    "exact_match",
    "extract_answer",
    "normalize_answer",
    "substring_match",
    "token_f1",
]


def __getattr__(name: str) -> object:
    if name == "JudgeReward":  # needs a client of HTTP, which those who only compare answers do without
        from llds.rewards.judge import JudgeReward

        return JudgeReward
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

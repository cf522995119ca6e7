"""Which tokens and trajectories the policy loss learns from, and how much; see `llds.losses.selections.selection`."""

from llds.losses.selections.importance import ImportanceCorrection, ImportanceLevel, importance_weights
from llds.losses.selections.selection import Selected, Selection, select
from llds.losses.selections.tokens import ClipCov, HighEntropyTokens, KLCov, LpReg
from llds.losses.selections.trajectories import ImportanceMask, OffPolicySequenceMask, Rejection, VoidTurns

__all__ = [
    "ClipCov",
    "HighEntropyTokens",
    "ImportanceCorrection",
    "ImportanceLevel",
    "ImportanceMask",
    "KLCov",
    "LpReg",
    "OffPolicySequenceMask",
    "Rejection",
    "Selected",
    "Selection",
    "VoidTurns",
    "importance_weights",
    "select",
]

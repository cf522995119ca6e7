"""The terms of the objective: pure functions on tensors, and thin classes that a configuration can name.

Needs torch alone. Names are the paper's; each function says the equations that it is (arXiv 2512.04220 v2), and in its
note where the authors' code or llds departs from them. Terms are added up in `llds.modules.objective`.

Letters of shapes, here and in all of llds: ``B`` trajectories, ``T`` tokens of the longest (prompt, actions and
observations), ``N`` action tokens, ``H`` hidden size, ``V`` vocabulary, ``U`` distinct tokens of a prefix tree.
"""

from llds.losses.advantages import (
    AdvantageInputs,
    Advantages,
    AdvantageScale,
    ConflictAdvantages,
    GiGPOAdvantages,
    GroupAdvantages,
    NegativeWeight,
    ReinforcePlusPlusAdvantages,
    RewardParts,
    RLOOAdvantages,
    SignedAdvantages,
    group_advantages,
)
from llds.losses.answer_masking import AnswerMasking, AnswerSchedule
from llds.losses.kl import KLEstimator, KLPenalty, kl_penalty
from llds.losses.llds import Anchor, Gate, LLDSPenalty, Preserve, llds_penalty, preserved_set
from llds.losses.log_probs import (
    TokenScores,
    action_log_probs,
    before_actions,
    scatter_to_tokens,
    selected_log_probs,
)
from llds.losses.loss import Loss, LossBatch, LossInputs, LossOutput
from llds.losses.masking import Aggregation, PolicyAggregation, action_mask, number_actions
from llds.losses.policy_gradient import GRPOLoss, GSPOLoss, grpo_loss, gspo_loss
from llds.losses.selections import (
    ClipCov,
    HighEntropyTokens,
    ImportanceCorrection,
    ImportanceLevel,
    ImportanceMask,
    KLCov,
    OffPolicySequenceMask,
    Rejection,
    Selected,
    Selection,
    VoidTurns,
    importance_weights,
    select,
)
from llds.losses.surrogates import (
    CISPOLoss,
    DPPOLoss,
    GMPOLoss,
    IPOLoss,
    SAPOLoss,
    TokenLoss,
    Tokens,
    TurnRatioLoss,
    WAPOLoss,
)
from llds.losses.terms import EntropyBonus, ObservationNLL, PositiveNLL

__all__ = [
    "AdvantageInputs",
    "AdvantageScale",
    "Advantages",
    "Aggregation",
    "Anchor",
    "AnswerMasking",
    "AnswerSchedule",
    "CISPOLoss",
    "ClipCov",
    "ConflictAdvantages",
    "DPPOLoss",
    "EntropyBonus",
    "GMPOLoss",
    "GRPOLoss",
    "GSPOLoss",
    "Gate",
    "GiGPOAdvantages",
    "GroupAdvantages",
    "HighEntropyTokens",
    "IPOLoss",
    "ImportanceCorrection",
    "ImportanceLevel",
    "ImportanceMask",
    "KLCov",
    "KLEstimator",
    "KLPenalty",
    "LLDSPenalty",
    "Loss",
    "LossBatch",
    "LossInputs",
    "LossOutput",
    "NegativeWeight",
    "ObservationNLL",
    "OffPolicySequenceMask",
    "PolicyAggregation",
    "PositiveNLL",
    "Preserve",
    "RLOOAdvantages",
    "ReinforcePlusPlusAdvantages",
    "Rejection",
    "RewardParts",
    "SAPOLoss",
    "Selected",
    "Selection",
    "SignedAdvantages",
    "TokenLoss",
    "TokenScores",
    "Tokens",
    "TurnRatioLoss",
    "VoidTurns",
    "WAPOLoss",
    "action_log_probs",
    "action_mask",
    "before_actions",
    "group_advantages",
    "grpo_loss",
    "gspo_loss",
    "importance_weights",
    "kl_penalty",
    "llds_penalty",
    "number_actions",
    "preserved_set",
    "scatter_to_tokens",
    "select",
    "selected_log_probs",
]

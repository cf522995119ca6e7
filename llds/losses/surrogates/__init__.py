"""Policy losses beside GRPO's and GSPO's (`llds.losses.policy_gradient`): what a moved ratio makes of a token."""

from llds.losses.surrogates.joint_ratio import GMPOLoss, TurnRatioLoss
from llds.losses.surrogates.token_loss import TokenLoss, Tokens
from llds.losses.surrogates.token_ratio import CISPOLoss, DPPOLoss, IPOLoss, SAPOLoss, WAPOLoss

__all__ = [
    "CISPOLoss",
    "DPPOLoss",
    "GMPOLoss",
    "IPOLoss",
    "SAPOLoss",
    "TokenLoss",
    "Tokens",
    "TurnRatioLoss",
    "WAPOLoss",
]

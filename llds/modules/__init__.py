"""The LightningModule of a search agent, and the parts it is made of."""

from llds.modules.adapters import LoRA
from llds.modules.anchor import LaggedAnchor
from llds.modules.nonfinite import NonFiniteGuard
from llds.modules.objective import Objective
from llds.modules.optimization import Optimization
from llds.modules.policy import Policy, PolicyOutput
from llds.modules.question_probe import QuestionProbe
from llds.modules.search_agent import SearchAgentModule
from llds.modules.trial_update import Trial, TrialOptimizer, TrialUpdates

__all__ = [
    "LaggedAnchor",
    "LoRA",
    "NonFiniteGuard",
    "Objective",
    "Optimization",
    "Policy",
    "PolicyOutput",
    "QuestionProbe",
    "SearchAgentModule",
    "Trial",
    "TrialOptimizer",
    "TrialUpdates",
]

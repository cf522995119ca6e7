"""The LightningModule of a search agent, and the parts it is made of: policy, objective, updates, metrics, state.

The formulas of the loss are in `llds.losses`; what makes trajectories is in `llds.callbacks.rollout`.
"""

from llds.modules.anchor import LaggedAnchor
from llds.modules.measuring import MetricSource
from llds.modules.nonfinite import NonFiniteGuard, all_finite
from llds.modules.objective import Objective
from llds.modules.optimization import Optimization
from llds.modules.policy import LoRA, Policy, PolicyOutput, hash_on_first_rank, weights_hash
from llds.modules.search_agent import SearchAgentModule

__all__ = [
    "LaggedAnchor",
    "LoRA",
    "MetricSource",
    "NonFiniteGuard",
    "Objective",
    "Optimization",
    "Policy",
    "PolicyOutput",
    "SearchAgentModule",
    "all_finite",
    "hash_on_first_rank",
    "weights_hash",
]

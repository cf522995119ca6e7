"""The policy: a causal language model whose head is computed at action positions only; loading it, adapters, weights.

Sampling from it is in `llds.samplers`.
"""

from llds.modules.policy.adapters import LoRA
from llds.modules.policy.policy import Policy, PolicyOutput
from llds.modules.policy.weights import hash_on_first_rank, weights_hash

__all__ = ["LoRA", "Policy", "PolicyOutput", "hash_on_first_rank", "weights_hash"]

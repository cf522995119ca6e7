"""Batches: trajectories become the tensors of an iteration, in micro-batches that do not change its gradient.

Where prompts come from is in `llds.data`; here begins what a rollout leaves.
"""

from llds.batches.policy_batch import PolicyBatch, collate
from llds.batches.rollout_batch import RolloutBatch

__all__ = ["PolicyBatch", "RolloutBatch", "collate"]

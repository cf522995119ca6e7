"""Training on several ranks: DeepSpeed ZeRO-3, and what the rest of llds must know of it."""

from llds.strategies.best_effort import best_effort
from llds.strategies.checkpoint_io import SealedCheckpointIO, save_training_state, use_sealed_checkpoints
from llds.strategies.deadline import ends_within
from llds.strategies.partitioned import assign_parts, gathered, is_partitioned, local_part, reads, whole_shape
from llds.strategies.ranks import gather, is_lost_rank, rank, sum_over_ranks, together, world_size
from llds.strategies.rollback import load_training_state
from llds.strategies.zero3 import ZeRO3Strategy
from llds.strategies.zero3_checkpoint import ranks_of_checkpoint, trained_weights

__all__ = [
    "SealedCheckpointIO",
    "ZeRO3Strategy",
    "assign_parts",
    "best_effort",
    "ends_within",
    "gather",
    "gathered",
    "is_lost_rank",
    "is_partitioned",
    "load_training_state",
    "local_part",
    "rank",
    "ranks_of_checkpoint",
    "reads",
    "save_training_state",
    "sum_over_ranks",
    "together",
    "trained_weights",
    "use_sealed_checkpoints",
    "whole_shape",
    "world_size",
]

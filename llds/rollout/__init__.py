"""Rollouts: the policy acts, the environment observes, trajectories are recorded as token ids.

Knows no Trainer and no training: rewards, ranks and tensors come after (`llds.callbacks.rollout`, `llds.batches`).
"""

from llds.rollout.collect import Collection, Rollout, RolloutCollector, RolloutUnderWay
from llds.rollout.episode import EpisodeLimits, EpisodeWatcher
from llds.rollout.failures import FailurePolicy
from llds.rollout.observation import EncodedObservation, ObservationEncoder
from llds.rollout.oversampling import Oversampling
from llds.rollout.protocol import ChatToolProtocol, ObservationText, Protocol, TagProtocol
from llds.rollout.scoring import Correctness, RewardCalls
from llds.rollout.stragglers import Stragglers
from llds.rollout.tool_calls import ToolCallPolicy

# The samplers under their former class_path, by which configuration files of earlier runs name them
from llds.samplers import TransformersSampler, VLLMEngine, VLLMSampler, VLLMServerSampler

__all__ = [
    "ChatToolProtocol",
    "Collection",
    "Correctness",
    "EncodedObservation",
    "EpisodeLimits",
    "EpisodeWatcher",
    "FailurePolicy",
    "ObservationEncoder",
    "ObservationText",
    "Oversampling",
    "Protocol",
    "RewardCalls",
    "Rollout",
    "RolloutCollector",
    "RolloutUnderWay",
    "Stragglers",
    "TagProtocol",
    "ToolCallPolicy",
    "TransformersSampler",
    "VLLMEngine",
    "VLLMSampler",
    "VLLMServerSampler",
]

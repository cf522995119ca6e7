"""Rollouts: the policy acts, the environment observes, trajectories are recorded as token ids."""

from llds.rollout.collect import Collection, RolloutCollector
from llds.rollout.episode import EpisodeLimits
from llds.rollout.observation import EncodedObservation, ObservationEncoder
from llds.rollout.protocol import ObservationText, TagProtocol
from llds.rollout.sampler import Sampler, SampleRequest
from llds.rollout.tool_calls import ToolCallPolicy
from llds.rollout.transformers_sampler import TransformersSampler

__all__ = [
    "Collection",
    "EncodedObservation",
    "EpisodeLimits",
    "ObservationEncoder",
    "ObservationText",
    "RolloutCollector",
    "SampleRequest",
    "Sampler",
    "TagProtocol",
    "ToolCallPolicy",
    "TransformersSampler",
]

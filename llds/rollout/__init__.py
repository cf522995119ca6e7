"""Rollouts: the policy acts, the environment observes, trajectories are recorded as token ids."""

from llds.rollout.collect import Collection, Rollout, RolloutCollector, RolloutUnderWay
from llds.rollout.episode import EpisodeLimits, EpisodeWatcher
from llds.rollout.failures import FailurePolicy
from llds.rollout.observation import EncodedObservation, ObservationEncoder
from llds.rollout.oversampling import Oversampling
from llds.rollout.protocol import ObservationText, TagProtocol
from llds.rollout.sampler import SampledPolicy, Sampler, SampleRequest
from llds.rollout.stragglers import Stragglers
from llds.rollout.tool_calls import ToolCallPolicy
from llds.rollout.transformers_sampler import TransformersSampler
from llds.rollout.vllm_sampler import VLLMSampler
from llds.rollout.vllm_server_sampler import VLLMServerSampler
from llds.rollout.vllm_settings import VLLMEngine

__all__ = [
    "Collection",
    "EncodedObservation",
    "EpisodeLimits",
    "EpisodeWatcher",
    "FailurePolicy",
    "ObservationEncoder",
    "ObservationText",
    "Oversampling",
    "Rollout",
    "RolloutCollector",
    "RolloutUnderWay",
    "SampleRequest",
    "SampledPolicy",
    "Sampler",
    "Stragglers",
    "TagProtocol",
    "ToolCallPolicy",
    "TransformersSampler",
    "VLLMEngine",
    "VLLMSampler",
    "VLLMServerSampler",
]

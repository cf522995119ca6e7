"""Samplers: token ids in, token ids and their log-probabilities out; new weights in after each iteration.

They know nothing of episodes, tools or text (`llds.rollout`).
"""

from llds.samplers.base import SampledPolicy, Sampler, SampleRequest
from llds.samplers.transformers import TransformersSampler
from llds.samplers.vllm import VLLMEngine, VLLMSampler, VLLMServerSampler

__all__ = [
    "SampleRequest",
    "SampledPolicy",
    "Sampler",
    "TransformersSampler",
    "VLLMEngine",
    "VLLMSampler",
    "VLLMServerSampler",
]

"""vLLM as a sampler: in the trainer's process, or as servers."""

from llds.samplers.vllm.in_process import VLLMSampler
from llds.samplers.vllm.server import VLLMServerSampler
from llds.samplers.vllm.settings import VLLMEngine

__all__ = ["VLLMEngine", "VLLMSampler", "VLLMServerSampler"]

"""vLLM as servers: their processes, the client, and the sampler that asks them."""

from llds.samplers.vllm.server.sampler import VLLMServerSampler

__all__ = ["VLLMServerSampler"]

"""How a vLLM engine is set up, in this process or as a server: one value for configuration files."""

import json
from dataclasses import dataclass
from typing import Any, Literal

import torch

from llds.errors import ConfigurationError
from llds.samplers.base import SampledPolicy

EngineDtype = Literal["auto", "float32", "bfloat16"]

_STEP_TOKENS = 8192
"""Tokens of contexts that a CPU reads in one step, where no single one is longer."""


@dataclass(frozen=True)
class VLLMEngine:
    """How a vLLM engine is set up."""

    dtype: EngineDtype = "auto"
    """Data type of weights and computation; `auto`: the trainer's."""
    head_dtype: Literal["float32", "model"] = "float32"
    """Data type of the logits: the trainer's are float32. `model`: that of the weights, for heads with few bits."""
    max_batch_size: int = 256
    """Most actions that are computed at once."""
    kv_cache_gb: float = 1.0
    """Memory of the key-value cache on a CPU, in GiB."""
    gpu_memory_utilization: float = 0.9
    """Share of a GPU's memory that the engine takes, 0-1."""
    tensor_parallel_size: int = 1
    """GPUs that share one copy of the model."""
    enforce_eager: bool = False
    """Whether to do without CUDA graphs on a GPU, which start slowly; a CPU always does."""

    def __post_init__(self) -> None:
        positive = (self.max_batch_size, self.kv_cache_gb, self.tensor_parallel_size, self.gpu_memory_utilization)
        if min(positive) <= 0 or self.gpu_memory_utilization > 1:
            raise ConfigurationError(
                "Expected `rollout.sampler.engine` to have max_batch_size, kv_cache_gb and tensor_parallel_size above "
                f"0 and gpu_memory_utilization in (0, 1], got {self}."
            )

    def check(self, policy: SampledPolicy) -> None:
        """Refuse a policy that no engine can serve; reads no weights.

        Raises:
            ConfigurationError: Naming the keys.
        """
        self.dtype_for(policy)
        longest = json.loads((policy.folder / "config.json").read_text()).get("max_position_embeddings")
        if longest is not None and longest < policy.max_tokens:
            raise ConfigurationError(
                f"Expected `rollout.limits.total_tokens` and `rollout.eval_limits.total_tokens` of at most {longest}, "
                f"the positions of `model.policy` {policy.folder}, got {policy.max_tokens}. Lower them."
            )

    def check_devices(self, policy: SampledPolicy) -> None:
        """Refuse a number of GPUs that no engine of this policy can run on.

        Raises:
            ConfigurationError: Naming the key.
        """
        size, key = self.tensor_parallel_size, "`rollout.sampler.engine.tensor_parallel_size`"
        if size > 1 and not torch.cuda.is_available():
            raise ConfigurationError(f"Expected {key} = 1 on a machine without GPUs, got {size}. Set it to 1.")
        heads = json.loads((policy.folder / "config.json").read_text()).get("num_attention_heads")
        if heads is not None and heads % size:
            raise ConfigurationError(
                f"Expected {key} to divide the {heads} attention heads of `model.policy` {policy.folder}, got {size}. "
                "Take a number that does."
            )

    def dtype_for(self, policy: SampledPolicy) -> Literal["float32", "bfloat16"]:
        """Data type of the engine's weights."""
        name = policy.dtype if self.dtype == "auto" else self.dtype
        if name == "float64":
            raise ConfigurationError(
                "Expected `model.dtype` or `rollout.sampler.engine.dtype` to be float32 or bfloat16 for vLLM, got "
                "float64. Set the latter to float32."
            )
        return name

    def arguments(self, policy: SampledPolicy) -> dict[str, Any]:
        """Arguments of vLLM's engine; as options of its server they have the same names."""
        common = {
            "dtype": self.dtype_for(policy),
            "max_model_len": policy.max_tokens,
            "max_num_seqs": self.max_batch_size,
            "enable_prefix_caching": True,
            "logprobs_mode": "processed_logprobs",  # of the sampling law
            "hf_overrides": {
                "head_dtype": self.head_dtype
            },  # vLLM's own is the weights', where the trainer's is float32
            "generation_config": "vllm",  # none of the settings that the model was saved with
            "seed": 0,
        }
        if torch.cuda.is_available():
            return common | {
                "gpu_memory_utilization": self.gpu_memory_utilization,
                "tensor_parallel_size": self.tensor_parallel_size,
                "enforce_eager": self.enforce_eager,
            }
        return common | cpu_arguments(policy.max_tokens) | {"kv_cache_memory_bytes": int(self.kv_cache_gb * 2**30)}


def cpu_arguments(max_tokens: int) -> dict[str, Any]:
    """Arguments that vLLM's engine needs on a CPU.

    Args:
        max_tokens: Most tokens of a trajectory.
    """
    return {
        "enforce_eager": True,
        "block_size": 32,
        # A context that is read in parts makes vLLM rewind its request's random numbers, which it cannot on a CPU.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(_STEP_TOKENS, max_tokens),
    }

"""Low-rank adapters of a policy: only they are trained, and the model without them is the reference.

The only file that imports peft.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from llds.errors import ConfigurationError
from llds.files.rows import reason
from llds.modules.policy.weights import full_weights
from llds.strategies import gathered, is_partitioned

_ADAPTER = "default"


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters (arXiv 2106.09685)."""

    rank: int = 16
    """Rank of the adapters."""
    alpha: int = 32
    """Scale of the adapters; their output is multiplied by alpha / rank."""
    target_modules: str | list[str] = "all-linear"
    """Names of the layers that get adapters; embeddings and the head cannot."""

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha < 1:
            raise ConfigurationError(
                f"Expected `model.lora` to have rank >= 1 and alpha >= 1, got {self.rank} and {self.alpha}."
            )


def with_adapters(model: PreTrainedModel, lora: LoRA) -> Any:
    """Put adapters into the model's layers and freeze the rest; returns the PeftModel around it.

    Raises:
        ConfigurationError: If there are no layers of these names, or embeddings or the head are among them.
    """
    from peft import LoraConfig, get_peft_model

    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    settings = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=lora.target_modules, task_type="CAUSAL_LM")
    expected = "Expected `model.lora.target_modules` to name layers inside the model, such as q_proj, or `all-linear`"
    try:
        adapted = get_peft_model(model, settings)
    except ValueError as error:
        raise ConfigurationError(f"{expected}, got {lora.target_modules}: {error}") from error
    if (model.get_input_embeddings(), model.get_output_embeddings()) != ends:
        # The head's products are taken in chunks from its plain weight, which may be tied to the embeddings.
        raise ConfigurationError(f"{expected}, got {lora.target_modules}, with embeddings or the head among them.")
    if not any(is_partitioned(parameter) for parameter in model.parameters()):
        _check_forward(model, f"{expected}, got {lora.target_modules}")
    return adapted


@torch.no_grad()
def _check_forward(model: PreTrainedModel, expected: str) -> None:
    """Refuse adapters in layers that are called in another way than linear ones, as routers of some experts are."""
    try:
        model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=model.device), use_cache=False)
    except Exception as error:  # each architecture has its own for a layer that it does not expect
        raise ConfigurationError(
            f"{expected}, with which {type(model).__name__} does not run: {reason(error)}. Name the layers of the "
            "attention: [q_proj, k_proj, v_proj, o_proj]."
        ) from error


def merged_weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Weights of a model with adapters in its layers, as the plain model has them.

    Args:
        model: The transformers model; it is not changed (merging and unmerging in place would leave rounding behind).

    Yields:
        Name and tensor of each weight; a new tensor where an adapter was merged in.
    """
    from peft.tuners.lora import LoraLayer

    layers: dict[str, Any] = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    adapted = {_adapted_name(name, layer): layer for name, layer in layers.items()}
    for name, value in full_weights(model):
        if ".lora_" in name:
            continue
        plain = name.replace(".base_layer", "")
        if plain in adapted:
            adapter = [parameter for key, parameter in adapted[plain].named_parameters() if key.startswith("lora_")]
            with gathered(adapter):
                delta = adapted[plain].get_delta_weight(_ADAPTER).detach()
            yield plain, value + delta.to(value.dtype)
        else:
            yield plain, value


def _adapted_name(name: str, layer: Any) -> str:
    """Name, in the plain model, of the weight that a layer adapts.

    A wrapper of a parameter, such as fused experts have, adapts one of its module's, and stands around another wrapper
    where two of them are adapted.
    """
    from peft.tuners.lora import ParamWrapper

    own = layer.parameter_name if isinstance(layer, ParamWrapper) else "weight"
    return f"{name.replace('.base_layer', '')}.{own}"

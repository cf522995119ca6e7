"""The policy: a causal language model that reports log-probabilities and entropy at action positions only.

The model's body runs on whole trajectories; its head runs on action tokens alone, in chunks. Trajectories are padded on
the right, and causal attention never looks right, so no attention mask is needed: padding cannot reach an action.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from llds.data.policy_batch import PolicyBatch
from llds.errors import ConfigurationError
from llds.losses.log_probs import action_log_probs
from llds.paths import resolve_path

_CHANGED_LOGITS = ("final_logit_softcapping", "logits_scaling", "logit_scale")


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters (arXiv 2106.09685): only they are trained, and the reference is the model without them."""

    rank: int = 16
    """Rank of the adapters."""
    alpha: int = 32
    """Scale of the adapters; their output is multiplied by alpha / rank."""
    target_modules: str | list[str] = "all-linear"
    """Names of the layers that get adapters."""


@dataclass(frozen=True)
class PolicyOutput:
    """What the policy says about a batch.

    Attributes:
        log_probs: Of each action token, 0 elsewhere, ``[B, T]``.
        entropy: Of the distribution at each action token, in nats, 0 elsewhere, without gradient, ``[B, T]``.
    """

    log_probs: Tensor
    entropy: Tensor


class Policy(nn.Module):
    """A transformers model as a policy.

    Args:
        path: Hugging Face folder (``llds:...`` for one inside the package).
        dtype: Data type of the weights.
        lora: Adapters to train instead of the whole model.
        gradient_checkpointing: Whether to recompute activations in the backward pass, to save memory.
        attention: The attention implementation of transformers.

    Raises:
        ConfigurationError: If the folder holds no model, or one whose logits are not a plain linear map.
    """

    def __init__(
        self,
        path: str,
        dtype: Literal["float32", "bfloat16", "float64"] = "float32",
        lora: LoRA | None = None,
        gradient_checkpointing: bool = False,
        attention: str = "sdpa",
    ) -> None:
        super().__init__()
        model = _load(path, dtype, attention)
        changed = [name for name in _CHANGED_LOGITS if getattr(model.config, name, None) not in (None, 1.0)]
        if changed:
            raise ConfigurationError(
                f"Expected `model.policy` to be a model whose logits are a linear map of its last hidden state, got "
                f"{path} with {changed}. Choose another model."
            )
        if gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self.has_adapter = lora is not None
        self.model: Any = model if lora is None else _with_adapters(model, lora)  # PreTrainedModel | PeftModel

    @property
    def base_model(self) -> PreTrainedModel:
        """The transformers model, adapters within its layers included."""
        return self.model.get_base_model() if self.has_adapter else self.model  # type: ignore[no-any-return]

    def forward(self, batch: PolicyBatch, temperature: float = 1.0) -> PolicyOutput:
        """Log-probabilities and entropy of the action tokens.

        Args:
            batch: Trajectories, padded on the right.
            temperature: Divides the logits, as it did when the actions were sampled.
        """
        base: Any = self.base_model
        head = base.get_output_embeddings()
        hidden = base.get_decoder()(input_ids=batch.input_ids, use_cache=False).last_hidden_state  # [B, T, H]
        scores = action_log_probs(
            hidden, head.weight, batch.input_ids, batch.action_index, bias=head.bias, temperature=temperature
        )
        return PolicyOutput(scores.log_probs, scores.entropy)

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        """The model that the adapters were added to: the reference of a LoRA run."""
        with self.model.disable_adapter():
            yield

    def save_pretrained(self, folder: str | Path, tokenizer: PreTrainedTokenizerBase) -> None:
        """Write a folder that plain transformers loads; adapters are merged into a copy of the weights."""
        model = self.model
        if self.has_adapter:
            model.merge_adapter()
            merged = {
                name.replace(".base_layer.", "."): value
                for name, value in self.base_model.state_dict().items()
                if "lora_" not in name
            }
            self.base_model.save_pretrained(folder, state_dict=merged)
            model.unmerge_adapter()
        else:
            model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _load(path: str, dtype: str, attention: str) -> PreTrainedModel:
    folder = resolve_path(path)
    if not (folder / "config.json").is_file():
        raise ConfigurationError(
            f"Expected `model.policy` to be a folder with a transformers model (config.json and safetensors), got "
            f"{folder}. Give the path of a downloaded model, or `llds:quickstart/policy` for the one in the package."
        )
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), attn_implementation=attention, local_files_only=True
    )


def _with_adapters(model: PreTrainedModel, lora: LoRA) -> Any:
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=lora.target_modules, task_type="CAUSAL_LM")
    return get_peft_model(model, settings)

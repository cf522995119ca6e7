"""Loading a model under ZeRO-3 so that no rank ever holds it whole.

The model is made from its configuration while DeepSpeed takes every parameter apart as it appears; then rank 0 reads
one tensor after the other from the safetensors files and hands the parts out. (transformers' own `from_pretrained`
cannot load into a model that is in parts.)
"""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from llds.errors import ConfigurationError
from llds.files import FROM_FOLDER, errors_of_folder
from llds.files.rows import reason
from llds.samplers.end_of_turn import saved_settings
from llds.samplers.saved_layout import is_fused
from llds.strategies import gathered, rank, whole_shape

_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"


class WeightFiles:
    """The safetensors files of a model folder; only what is asked for is read.

    Args:
        folder: In the format of transformers.

    Attributes:
        names: Names of all tensors.

    Raises:
        ConfigurationError: If there are no such files, or they cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        expected = "Expected `model.policy` to be a folder with a transformers model (config.json and safetensors), got"
        with errors_of_folder(expected, folder, "Give a model's folder, or its name on the hub (OWNER/NAME)."):
            if (folder / _INDEX).is_file():
                self._file_of: dict[str, str] = json.loads((folder / _INDEX).read_text())["weight_map"]
            else:
                with safe_open(folder / _SINGLE, "pt") as file:
                    self._file_of = dict.fromkeys(file.keys(), _SINGLE)
        self.names = self._file_of.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        with safe_open(self.folder / self._file_of[name], "pt") as file:
            return tuple(file.get_slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        """A tensor, in main memory."""
        with safe_open(self.folder / self._file_of[name], "pt") as file:
            return file.get_tensor(name)


def load_partitioned(
    folder: Path, dtype: torch.dtype, attention: str, partition: Callable[[], AbstractContextManager[Any]]
) -> PreTrainedModel:
    """Make a model whose parameters are in parts over the ranks; a collective operation.

    Args:
        folder: In the format of transformers, with safetensors.
        dtype: Of the weights.
        attention: The attention implementation of transformers.
        partition: Context in which DeepSpeed takes parameters apart as they are made.

    Raises:
        ConfigurationError: If the folder lacks a weight, or has it under another name or in another shape.
    """
    files = WeightFiles(folder)
    config = AutoConfig.from_pretrained(folder, **FROM_FOLDER)
    check_attention(config, attention)
    with partition():
        model = bare_model(config, dtype, attention)
    model.generation_config = saved_settings(folder)
    _check_files(files, model)
    for name, parameter in model.named_parameters():
        with gathered([parameter], writes=True):
            if rank() == 0:
                parameter.data.copy_(files.read(name))
    for name, buffer in model.named_buffers():
        if name in files.names:
            buffer.copy_(files.read(name))
    return model


def bare_model(config: PreTrainedConfig, dtype: torch.dtype, attention: str) -> PreTrainedModel:
    """A model whose weights are yet to come.

    Args:
        config: Its configuration.
        dtype: Of the weights.
        attention: The attention implementation of transformers.
    """
    with no_init_weights():
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    model.tie_weights()  # which transformers leaves out together with the initialization
    return model


def check_attention(config: PreTrainedConfig, attention: str) -> None:
    """Refuse an attention implementation that a model lacks, or that this machine cannot run.

    Args:
        config: Of the model; made without memory for its weights.
        attention: The implementation.

    Raises:
        ConfigurationError: Naming `model.attention`.
    """
    if attention == "eager":
        return
    try:
        _on_meta(config, attention)
    except (ValueError, ImportError) as error:
        _on_meta(config, "eager")  # what is wrong with the model itself is not this setting's fault
        [why, *_] = reason(error).split(". ")  # what follows asks for a request at transformers, by a long address
        others = "eager" if attention == "sdpa" else "sdpa, or eager"
        raise ConfigurationError(
            f"Expected `model.attention` to be one that {config.model_type} models have here, got {attention}: "
            f"{why}. Use {others}, which every model has."
        ) from error


def _on_meta(config: PreTrainedConfig, attention: str) -> PreTrainedModel:
    """The model without memory for its weights."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(deepcopy(config), attn_implementation=attention)
    return model


def miniature(model: PreTrainedModel) -> PreTrainedModel:
    """A small random model of the same kind, for what can be learned without the weights."""
    config = deepcopy(model.config)
    text = config.get_text_config()
    known = text.to_dict()  # configurations of some architectures lack some of these
    kinds = list(dict.fromkeys(known.get("layer_types") or []))
    text.vocab_size, text.num_hidden_layers = 32, max(1, len(kinds))  # a layer of each kind
    if known.get("intermediate_size"):
        text.intermediate_size = 32
    if kinds:
        text.layer_types = kinds
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(text, name, None)
    attention = "sdpa" if model.config._attn_implementation == "sdpa" else "eager"  # others want a GPU
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()


def _check_files(files: WeightFiles, model: PreTrainedModel) -> None:
    """Refuse files whose tensors are not the model's, on every rank and before any is read."""
    if is_fused(model):
        raise ConfigurationError(
            "Expected `model.policy` to be a model whose files hold its weights as transformers computes with them, "
            f"under ZeRO-3, which reads them one by one, got {files.folder}: {type(model).__name__} fuses several "
            "tensors of its files into one (experts). Train it with -c llds:trainer/ddp, or choose a dense model."
        )
    for name, parameter in model.named_parameters():
        expected = tuple(whole_shape(parameter))
        found = files.shape(name) if name in files.names else None
        if found != expected:
            raise ConfigurationError(
                f"Expected `model.policy` {files.folder} to hold {name} with shape {list(expected)}, got "
                f"{'no such tensor' if found is None else list(found)}. Under ZeRO-3 weights are read one by one, "
                "by the names that transformers gives them: load the model in plain transformers and save it again; if "
                "that changes nothing (GPT-NeoX: its files keep names of their own), train it with -c llds:trainer/ddp."
            )

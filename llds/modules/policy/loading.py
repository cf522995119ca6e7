"""Loading a model whole, from a folder or by name, with errors that name the key."""

from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from llds.dtypes import DTYPES
from llds.errors import ConfigurationError
from llds.files import FROM_FOLDER, damage_of_folder, errors_of_folder, model_folder
from llds.modules.policy.partitioned_loading import check_attention
from llds.paths import where_looked

_KEY = "model.policy"
_EXPECTED = "Expected `model.policy` to be a folder with a transformers model (config.json and safetensors), got"
_ADVICE = "Give a model's folder, its name on the hub (OWNER/NAME), or `llds:quickstart/policy`, in the package."


def load_config(path: str) -> PreTrainedConfig:
    """The configuration of a model, without its weights.

    Args:
        path: Folder, or name on the hub.

    Raises:
        ConfigurationError: If there is none, or it cannot be read.
    """
    folder = model_folder(path, _KEY)
    if not (folder / "config.json").is_file():
        raise ConfigurationError(f"{_EXPECTED} {folder}. {where_looked(folder)}{_ADVICE}")
    with errors_of_folder(_EXPECTED, folder, _ADVICE):
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, **FROM_FOLDER)
    return config


def load(path: str, dtype: str, attention: str) -> PreTrainedModel:
    """The model.

    Args:
        path: Folder, or name on the hub.
        dtype: Data type of the weights.
        attention: The attention implementation of transformers.

    Raises:
        ConfigurationError: If there is none, it is damaged or lacks weights, or has no such attention.
    """
    folder, config = model_folder(path, _KEY), load_config(path)
    check_attention(config, attention)
    if found := damage_of_folder(folder):
        raise ConfigurationError(
            f"{_EXPECTED} {folder}, which is damaged: {found}. Copy or export it again; if you have changed it on "
            "purpose, delete checksums.json in it."
        )
    with errors_of_folder(_EXPECTED, folder, _ADVICE):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=DTYPES[dtype],
            attn_implementation=attention,
            output_loading_info=True,
            **FROM_FOLDER,
        )
    model, report = loaded
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ConfigurationError(f"{_EXPECTED} {folder}, which lacks {len(missing)} weights ({missing[0]}). {_ADVICE}")
    return model

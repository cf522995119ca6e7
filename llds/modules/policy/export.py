"""A plain transformers folder of a checkpoint, also of one that ZeRO-3 wrote in parts."""

import re
from pathlib import Path
from typing import Any

import yaml

from llds.errors import ConfigurationError
from llds.evaluation.model_card import Exported, write_model_card
from llds.files import pin_of
from llds.modules.policy import LoRA, Policy
from llds.modules.policy.tokenizer import load_tokenizer
from llds.modules.policy.weights import weights_hash
from llds.strategies import best_effort, trained_weights

_PREFIX = "policy."
_NUMBER = re.compile(r"^iteration-(\d+)\b")


def export_checkpoint(checkpoint: Path, folder: Path, config: Path) -> None:
    """Write the folder, and its model card where that can be made.

    Args:
        checkpoint: A file, or a folder of ZeRO-3.
        folder: Made when missing.
        config: The run's config.yaml.

    Raises:
        ConfigurationError: If the checkpoint does not belong to the run's model.
    """
    for path in (checkpoint, config):
        if not path.exists():
            raise ConfigurationError(
                f"Expected a checkpoint in a run's folder, and its config.yaml, got {path}, which does not exist. "
                "Check the path, or name the file: --config FILE."
            )
    settings = _model_settings(config)
    lora = LoRA(**settings["lora"]) if settings.get("lora") else None
    policy = Policy(settings["policy"], settings.get("dtype", "float32"), lora)
    saved = {
        name.removeprefix(_PREFIX): value
        for name, value in trained_weights(checkpoint).items()
        if name.startswith(_PREFIX)
    }
    trained = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    missing, unexpected = trained - saved.keys(), saved.keys() - policy.state_dict().keys()
    if missing or unexpected:
        raise ConfigurationError(
            f"Expected {checkpoint} to hold the weights of {settings['policy']}, got {len(missing)} missing and "
            f"{len(unexpected)} others ({sorted(missing | unexpected)[0]}). Is {config} the configuration of its run?"
        )
    policy.load_state_dict(saved, strict=False)
    policy.save_pretrained(folder, load_tokenizer(settings["policy"]))
    number = _NUMBER.search(checkpoint.name)
    exported = Exported(int(number[1]) if number else None, weights_hash(policy.weights()))
    with best_effort("No model card", "The model is whole"):
        write_model_card(folder, config.parent, pin_of(settings["policy"]), exported)


def _model_settings(config: Path) -> dict[str, Any]:
    """What ``model.init_args`` says."""
    try:
        settings: dict[str, Any] = yaml.safe_load(config.read_text())["model"]["init_args"]
        settings["policy"]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, KeyError) as error:
        raise ConfigurationError(
            f"Expected {config} to be the config.yaml of a run, got a file without `model.init_args.policy`. "
            "Name it: --config FILE."
        ) from error
    return settings

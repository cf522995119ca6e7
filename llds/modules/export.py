"""Make a plain transformers folder of a checkpoint, also of one that ZeRO-3 wrote in parts.

    python tools/export_checkpoint.py runs/base/checkpoints/iteration-000100.ckpt policy-100

Needs one process and main memory for one model (twice for a checkpoint in parts); adapters are merged in. What the
model is comes from the run's config.yaml.
"""

import argparse
import sys
from pathlib import Path

import yaml

from llds.errors import ConfigurationError, LLDSError
from llds.modules import LoRA, Policy
from llds.modules.policy.tokenizer import load_tokenizer
from llds.strategies import trained_weights

_PREFIX = "policy."


def export(checkpoint: Path, folder: Path, config: Path) -> None:
    """Write the folder.

    Args:
        checkpoint: A file, or a folder of ZeRO-3.
        folder: Made when missing.
        config: The run's config.yaml.

    Raises:
        ConfigurationError: If the checkpoint does not belong to the run's model.
    """
    for path in (checkpoint, config):
        if not path.exists():
            raise ConfigurationError(f"Expected a checkpoint in a run's folder, beside config.yaml, got no {path}.")
    settings = yaml.safe_load(config.read_text())["model"]["init_args"]
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


def main() -> None:
    """Read the command line and export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path, help="where the model goes")
    parser.add_argument("--config", type=Path, help="config.yaml of the run; default: two folders above the checkpoint")
    arguments = parser.parse_args()
    try:
        export(
            arguments.checkpoint,
            arguments.folder,
            arguments.config or arguments.checkpoint.resolve().parents[1] / "config.yaml",
        )
    except LLDSError as error:
        sys.exit(f"export_checkpoint: {error}")
    print(f"{arguments.folder} (loads in plain transformers)")


if __name__ == "__main__":
    main()

"""``llds export``: a plain transformers folder of a checkpoint."""

from collections.abc import Sequence
from pathlib import Path

from llds.cli.arguments import ArgumentParser
from llds.cli.plain import say
from llds.errors import ConfigurationError

_DESCRIPTION = """\
Make a model folder of a checkpoint, also of one that ZeRO-3 wrote in parts; it loads in plain transformers, in vLLM,
and as `--model.policy`. Needs one process and main memory for one model (twice for a checkpoint in parts). Adapters are
merged in. What the model is comes from the run's config.yaml. A model card (README.md) is written beside the weights:
what it was trained from and how, what `llds test` measured of exactly these weights, what the collapse detector saw.
`llds push` uploads the folder."""
_EXAMPLES = """
examples:
  llds export runs/base/checkpoints/iteration-000100.ckpt policy-100
  llds export iteration-000100.ckpt policy-100 --config runs/base/config.yaml   # a checkpoint that was moved
"""


def export(args: Sequence[str]) -> None:
    """Export the checkpoint of the arguments after ``export``.

    Args:
        args: Arguments.

    Raises:
        ConfigurationError: If the checkpoint does not belong to the run's model, or the folder holds something.
    """
    parser = ArgumentParser("llds export CHECKPOINT FOLDER [--config FILE]", _DESCRIPTION, _EXAMPLES)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="file, or folder that ZeRO-3 wrote")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where the model goes")
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help="config.yaml of the run (default: the one two folders above the checkpoint)",
    )
    options = parser.parse_args(list(args))
    if options.folder.exists() and (not options.folder.is_dir() or any(options.folder.iterdir())):
        raise ConfigurationError(f"Expected FOLDER to be new or empty, got {options.folder}. Name another.")
    from llds.modules.policy.export import export_checkpoint

    config = options.config or options.checkpoint.resolve().parents[1] / "config.yaml"
    export_checkpoint(options.checkpoint, options.folder, config)
    say(f"{options.folder} (loads in plain transformers)")

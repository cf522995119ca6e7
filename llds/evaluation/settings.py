"""The settings of a run as its folder keeps them: flat, and with what is no setting set apart.

Two runs whose settings agree are the same experiment. Their seeds tell them apart; where their folders are does not.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from llds.errors import DataError
from llds.files.bounds import check_yaml, read_bytes

PARTS_WITH_SEED = {"model": "model.init_args.seed", "data": "data.init_args.seed", "rollout": "rollout.seed"}
"""Keys of the seeds that decide a run, by the part that draws with each."""
_SEED_OF_ALL = "seed_everything"  # feeds those that are not set
_PLACES = ("default_root_dir", "save_dir", "ckpt_path")
_NOT_OF_TRAINING = ("trainer.logger", "import_from")


@dataclass(frozen=True)
class RunSettings:
    """A configuration, taken apart.

    Attributes:
        values: Settings by dotted key; a path in the run's own folder begins with ``RUN``. Empty where none are known.
        seeds: The seeds that took effect, by part (`PARTS_WITH_SEED`).
    """

    values: Mapping[str, Any]
    seeds: Mapping[str, Any]

    @property
    def seed(self) -> str:
        """The seeds in words: one number where all are equal."""
        if len(set(self.seeds.values())) == 1:
            return str(next(iter(self.seeds.values())))
        return ", ".join(f"{part} {seed}" for part, seed in self.seeds.items()) or "unknown"


def run_settings(config: Mapping[str, Any]) -> RunSettings:
    """Take a configuration apart.

    Args:
        config: As `read_config` returns it.
    """
    flat = flatten(config)
    seeds = {part: flat.pop(key) for part, key in PARTS_WITH_SEED.items() if key in flat}
    of_all = flat.pop(_SEED_OF_ALL, None)
    if not seeds and of_all is not None:
        seeds = {_SEED_OF_ALL: of_all}
    root = flat.get("trainer.default_root_dir")
    values = {
        key: value.replace(root, "RUN") if isinstance(value, str) and isinstance(root, str) else value
        for key, value in flat.items()
        if not key.endswith(_PLACES) and not key.startswith(_NOT_OF_TRAINING)
    }
    return RunSettings(values, seeds)


def read_config(run: Path) -> dict[str, Any]:
    """The configuration in a run's folder; empty where there is none.

    Raises:
        DataError: If it cannot be read.
    """
    path = run / "config.yaml"
    config = _read_yaml(path) if path.is_file() else {}
    return config if isinstance(config, dict) else {}


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries and lists as one dictionary; keys are joined by dots."""
    if isinstance(value, Mapping) and value:
        items = [(f"{prefix}.{key}" if prefix else str(key), one) for key, one in value.items()]
    elif isinstance(value, list | tuple) and any(isinstance(one, Mapping | list | tuple) for one in value):
        items = [(f"{prefix}.{number}", one) for number, one in enumerate(value)]
    else:
        return {prefix: value} if prefix else {}
    return {key: leaf for name, one in items for key, leaf in flatten(one, name).items()}


def _read_yaml(path: Path) -> Any:
    try:
        text = read_bytes(path).decode()
        check_yaml(text)
        return yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"Expected a configuration in {path}, got: {error}. Remove the file.") from error

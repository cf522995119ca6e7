"""One seed for a run: what has no seed of its own gets that of ``seed_everything``.

A run that goes on keeps the seeds that it was begun with, whatever the command says now: they stand in the
configuration that it saved.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_warn

from llds.cli.config.saved import config_of_run
from llds.evaluation.settings import PARTS_WITH_SEED

SEEDED = tuple(PARTS_WITH_SEED.values())
"""Keys of the seeds that the one seed feeds where they are null."""


def spread_seed(config: Namespace) -> None:
    """Give each part without a seed the run's, in place.

    Args:
        config: Of a subcommand; ``seed_everything`` is a number by now, or False.
    """
    unset = [key for key in SEEDED if key in config and config[key] is None]
    begun_with = _seeds_of_run(config.get("ckpt_path"))
    asked = config.seed_everything
    for key in unset:
        config[key] = begun_with.get(key, int(asked))
    config.seed_everything = begun_with.get("seed_everything", asked)
    if unset and config.seed_everything != asked:
        rank_zero_warn(
            f"The run goes on with the seed that it was begun with (`seed_everything` {config.seed_everything}), not "
            f"with {asked}. For another seed start another run: --trainer.default_root_dir OTHER."
        )


def _seeds_of_run(ckpt_path: str | Path | None) -> dict[str, Any]:
    """The seeds in the configuration that the run of a checkpoint saved; nothing where it saved none."""
    saved = config_of_run(ckpt_path)
    found = {key: _value(saved, key.split(".")) for key in (*SEEDED, "seed_everything")}
    return {key: value for key, value in found.items() if value is not None}


def _value(values: Any, path: list[str]) -> Any:
    for word in path:
        values = values.get(word) if isinstance(values, Mapping) else None
    return values

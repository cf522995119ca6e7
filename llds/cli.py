"""The command line: ``llds fit | validate | test | predict``, each a LightningCLI subcommand.

``rollout``, `retrieval` and ``collapse`` configure the three callbacks that every run has under names of their own, so
that an overlay or the command line can change one value of theirs; other callbacks go to ``trainer.callbacks``.
"""

import os
import sys
from pathlib import Path

import jsonargparse
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info

from llds.callbacks import CollapseMonitor, RetrievalCallback, RolloutCallback, list_checkpoints
from llds.data import PromptDataModule
from llds.errors import ConfigurationError, LLDSError
from llds.modules import SearchAgentModule


class SearchAgentCLI(LightningCLI):
    """LightningCLI with the callbacks of a search agent and checkpoints found by ``--ckpt_path last``."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the callbacks that every run has."""
        parser.add_lightning_class_args(RolloutCallback, "rollout")
        parser.add_lightning_class_args(RetrievalCallback, "retrieval")
        parser.add_lightning_class_args(CollapseMonitor, "collapse")

    def before_instantiate_classes(self) -> None:
        """Resolve ``--ckpt_path last`` and keep a new run out of the folder of an old one."""
        if self.subcommand is None:
            return
        config = self.config[self.subcommand]
        root = config.trainer.default_root_dir or "."
        checkpoints = list_checkpoints(root)
        if config.ckpt_path == "last":
            config.ckpt_path = self._last(checkpoints, root)
        elif config.ckpt_path is None and self.subcommand == "fit" and checkpoints:
            raise ConfigurationError(
                f"Expected a new folder for a new run, got `trainer.default_root_dir` {root}, which holds a run "
                f"({checkpoints[-1].name}). Go on with that run: --ckpt_path last. "
                "Start another: --trainer.default_root_dir OTHER, or delete the folder."
            )
        elif config.ckpt_path is not None and not Path(config.ckpt_path).exists():
            raise ConfigurationError(f"Expected `ckpt_path` to be a checkpoint or `last`, got {config.ckpt_path}.")

    def _last(self, checkpoints: list[Path], root: str) -> str | None:
        if checkpoints:
            return str(checkpoints[-1])
        if self.subcommand == "fit":
            rank_zero_info(f"No checkpoint in {root} yet: starting from the beginning.")
            return None
        raise ConfigurationError(f"Expected a checkpoint in {root}/checkpoints for `--ckpt_path last`, got none.")


def build_cli(args: list[str] | None = None, run: bool = True) -> SearchAgentCLI:
    """Parse, instantiate and, unless told otherwise, run.

    Args:
        args: Arguments; None takes those of the process.
        run: Whether the first argument is a subcommand to run; else everything is only built.
    """
    jsonargparse.set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    return SearchAgentCLI(
        SearchAgentModule,
        PromptDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        seed_everything_default=0,
        parser_kwargs={"parser_mode": "omegaconf+"},
        save_config_kwargs={"overwrite": True},
        args=args,
        run=run,
    )


def main(args: list[str] | None = None) -> None:
    """Run the command line; an error that llds raises on purpose is one line and exit status 1.

    Args:
        args: Arguments; None takes those of the process.
    """
    # Before any thread pool of a tokenizer exists; its own parallelism deadlocks after forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        build_cli(args)
    except LLDSError as error:
        sys.exit(f"llds: {error}")

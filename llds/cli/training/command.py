"""LightningCLI for a search agent, and running one command with it.

``rollout``, ``retrieval``, ``signals`` and ``collapse`` configure the four callbacks that every run has under names of
their own, so that an overlay or the command line can change one value of theirs; other callbacks go to
``trainer.callbacks``.
"""

import os
import sys
from pathlib import Path
from typing import Any, cast

import jsonargparse
import lightning.pytorch as pl
from jsonargparse import ActionYesNo
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from omegaconf.errors import OmegaConfBaseException

from llds import __version__
from llds.callbacks import (
    CollapseMonitor,
    IterationSignals,
    LLDProbe,
    RetrievalCallback,
    RolloutCallback,
    list_checkpoints,
)
from llds.cli.commands.serve_retriever import serve_retriever
from llds.cli.config.own_classes import IMPORT_FROM_HELP, check_import_from
from llds.cli.config.parser import ConfigurationParser, errors_of_constructors
from llds.cli.config.saved import SaveConfig
from llds.cli.console import quiet, tell_of_indices
from llds.cli.training.ask import QUESTION_HELP, answer_question, prepare_for_question
from llds.cli.training.checkpoint_path import check_checkpoint, errors_of_damage
from llds.cli.training.late_loggers import LateLoggers
from llds.cli.training.probe import ProbingTrainer, prepare_for_probe
from llds.cli.training.profile import PROFILE_HELP, with_profile
from llds.data import PromptDataModule
from llds.errors import ConfigurationError, LLDSError, RankError
from llds.modules import SearchAgentModule
from llds.strategies import is_lost_rank

_SUBCOMMANDS = {
    "fit": "Train a search agent.",
    "validate": "Measure a policy on the validation questions.",
    "test": "Measure a policy on the test questions.",
    "predict": "Answer questions and write the trajectories.",
    "probe": "Try one update per question: which correct responses lose likelihood, and why.",
}
STOPPED_BY_LADDER = 3
"""Exit status of a training that the collapse ladder has stopped."""
_KEYS_OF_CLASSES = (
    "Keys below a class: llds {0} --model.help, --data.help, --model.llds_penalty.help CLASS, and so on. "
    "`llds configs show base` lists all of them with their values."
)


class SearchAgentCLI(LightningCLI):
    """LightningCLI with the callbacks of a search agent and checkpoints found by ``--ckpt_path last``."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the callbacks that every run has, the folder that files name as ``${data_root}``, and the profile."""
        parser.add_argument(
            "--data_root", type=str, default="data", help="folder that ${data_root} stands for in files"
        )
        parser.add_argument("--import_from", type=list[str], default=[], help=IMPORT_FROM_HELP)
        # Every command takes it, as every command takes the configuration that a training has saved.
        parser.add_argument("--profile", action=ActionYesNo(no_prefix="no_"), default=False, help=PROFILE_HELP)
        parser.add_lightning_class_args(RolloutCallback, "rollout")
        parser.add_lightning_class_args(RetrievalCallback, "retrieval")
        parser.add_lightning_class_args(IterationSignals, "signals")
        parser.add_lightning_class_args(CollapseMonitor, "collapse")

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The subcommands, each with the arguments of the trainer's method that are not the user's."""
        ours = {"model", "datamodule", "dataloaders", "train_dataloaders", "val_dataloaders"}
        hidden = ours | {"verbose", "return_predictions"}
        return dict.fromkeys(_SUBCOMMANDS, hidden)

    def setup_parser(
        self, add_subcommands: bool, main_kwargs: dict[str, Any], subparser_kwargs: dict[str, Any]
    ) -> None:
        """Set the parsers up; the list of subcommands says what they do here, not what Lightning says of them."""
        super().setup_parser(add_subcommands, main_kwargs, subparser_kwargs)
        if add_subcommands:
            predict = self._subcommand_parsers["predict"]
            predict.add_argument("--question", type=str | None, default=None, help=QUESTION_HELP)
            probe = self._subcommand_parsers["probe"]
            # The group of the subcommand's own arguments leaves its name to the callback.
            (probe.groups or {}).pop("probe", None)
            probe.add_lightning_class_args(LLDProbe, "probe")
            for subparser in self._subcommand_parsers.values():
                subparser.set_defaults(weights_only=True)  # Lightning's default would run what a checkpoint brings
        if self.parser._subcommands_action is not None:
            for choice in self.parser._subcommands_action._choices_actions:
                choice.help = _SUBCOMMANDS[choice.dest]

    def after_fit(self) -> None:
        """End with a status of its own where the collapse ladder has stopped the run, which is no error."""
        if any(isinstance(one, CollapseMonitor) and one.has_stopped for one in self.trainer.callbacks):  # type: ignore[attr-defined]
            rank_zero_info("llds: the run was stopped by `collapse.ladder`; --ckpt_path last goes on with it.")
            sys.exit(STOPPED_BY_LADDER)

    def validate(self, **kwargs: Any) -> None:
        """Validate without Lightning's table, which repeats ours."""
        self.trainer.validate(**kwargs, verbose=False)

    def test(self, **kwargs: Any) -> None:
        """Test without Lightning's table, which repeats ours."""
        self.trainer.test(**kwargs, verbose=False)

    def predict(self, **kwargs: Any) -> None:
        """Predict the questions of the data, or answer the one of the command line."""
        question = self.config.predict.question
        if question is None:
            self.trainer.predict(**kwargs, return_predictions=False)  # the callbacks write them; memory is finite
        else:
            answer_question(question, self.trainer, self.model, self.datamodule, kwargs["ckpt_path"])

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; arguments from Python are as good as those of the process."""
        self.config = parser.parse_args(args)

    def before_instantiate_classes(self) -> None:
        """Resolve ``--ckpt_path last`` and keep a new run out of the folder of an old one."""
        if self.subcommand is None:
            return
        config = self.config[self.subcommand]
        check_import_from(config.import_from)
        root = config.trainer.default_root_dir or "."
        if config.get("question") is not None:
            prepare_for_question(config)
        else:
            _check_folder(Path(root))
        if self.subcommand == "probe":
            prepare_for_probe(config)
            self.save_config_callback = None  # that of the run stays
        checkpoints = list_checkpoints(root)
        if config.ckpt_path == "last":
            config.ckpt_path = self._last(checkpoints, root)
        if config.ckpt_path is not None:
            check_checkpoint(Path(config.ckpt_path), config.weights_only is not False)
        elif self.subcommand == "fit" and checkpoints:
            raise ConfigurationError(
                f"Expected a new folder for a new run, got `trainer.default_root_dir` {root}, which holds a run "
                f"({checkpoints[-1].name}). Go on with that run: --ckpt_path last. "
                "Start another: --trainer.default_root_dir OTHER, or delete the folder."
            )

    def _run_subcommand(self, subcommand: str) -> None:
        """Run; weights that prove to be damaged when they are read are one sentence too."""
        callbacks: list[pl.Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        callbacks.sort(key=lambda callback: not isinstance(callback, IterationSignals))  # others write what they find
        callbacks.insert(0, LateLoggers(self.trainer))
        with errors_of_damage(self.config[subcommand].ckpt_path):
            super()._run_subcommand(subcommand)

    def instantiate_classes(self) -> None:
        """Build everything; an error of ours from a constructor comes out as it was raised, not wrapped.

        Raises:
            ConfigurationError: If a constructor refuses a value.
        """
        with errors_of_constructors():
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer, with a profile where a training shall have one.

        Raises:
            ConfigurationError: If Lightning refuses a setting, or this machine cannot serve it.
        """
        if self.subcommand in (None, "fit") and self._get(self.config, "profile"):
            kwargs["callbacks"] = with_profile(self._get(self.config_init, "trainer").callbacks)
        try:
            return super().instantiate_trainer(**kwargs)
        except (ValueError, MisconfigurationException) as error:
            raise ConfigurationError(f"Expected `trainer` settings that work on this machine, got: {error}") from error

    def _parse_ckpt_path(self) -> None:
        """Do nothing: the base class reads the whole file for hyper-parameters that llds does not keep there."""

    def _last(self, checkpoints: list[Path], root: str) -> str | None:
        if checkpoints:
            return str(checkpoints[-1])
        if self.subcommand == "fit":
            rank_zero_info(f"No checkpoint in {root} yet: starting from the beginning.")
            return None
        raise ConfigurationError(
            f"Expected a checkpoint in {root}/checkpoints for `--ckpt_path last`, got none. Train first (llds fit), "
            "name another folder (--trainer.default_root_dir), or leave --ckpt_path out to measure the initial policy."
        )


def _check_folder(root: Path) -> None:
    """Refuse a folder that cannot be made or written; nothing is made yet, as other settings may be wrong."""
    nearest = next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ConfigurationError(
            f"Expected `trainer.default_root_dir` to be a folder that can be written, got {root}: {nearest} is "
            f"{'read-only' if nearest.is_dir() else 'a file'}. Name another folder."
        )


def build_cli(args: list[str] | None = None, run: bool = True) -> SearchAgentCLI:
    """Parse, instantiate and, unless told otherwise, run.

    Args:
        args: Arguments; None takes those of the process.
        run: Whether the first argument is a subcommand to run; else everything is only built.
    """
    jsonargparse.set_parsing_settings(
        omegaconf_absolute_to_relative_paths=True, docstring_parse_attribute_docstrings=True
    )
    usage = {
        name: {
            "description": description,
            "usage": f"llds {name} -c FILE [-c FILE ...] [--KEY VALUE ...]",
            "epilog": _KEYS_OF_CLASSES.format(name),
        }
        for name, description in _SUBCOMMANDS.items()
    }
    return SearchAgentCLI(
        SearchAgentModule,
        PromptDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        seed_everything_default=0,
        parser_class=ConfigurationParser,
        parser_kwargs={
            "prog": "llds",
            "description": "Train and measure search agents.",
            "epilog": "Also: `llds serve-retriever` offers a retriever over HTTP; `llds diagnose` says whether a run "
            "(of llds or another framework) collapses, and why; `llds report` makes a page of it; "
            "`llds configs` lists what ships for -c. Each has a --help.",
            "version": __version__,
            "parser_mode": "omegaconf+",
            **usage,
        },
        trainer_class=ProbingTrainer,
        save_config_callback=SaveConfig,
        save_config_kwargs={"command": sys.argv[1:] if args is None else args},
        args=args,
        run=run,
    )


def run_command(args: list[str] | None = None) -> None:
    """Run a command; an error that llds raises on purpose is one sentence and exit status 1.

    Args:
        args: Arguments; None takes those of the process.
    """
    # Before any thread pool of a tokenizer exists; its own parallelism deadlocks after forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    quiet()
    tell_of_indices()
    if os.getcwd() not in sys.path:
        sys.path.append(
            os.getcwd()
        )  # the script `llds`, unlike `python -m llds`, would not find the user's own classes
    words = sys.argv[1:] if args is None else args
    try:
        if words[:1] == ["serve-retriever"]:
            serve_retriever(words[1:])
        else:
            build_cli(args)
    except RankError as error:  # all ranks have the same one
        sys.exit(f"llds: {error}" if cast(Any, rank_zero_only).rank == 0 else 1)
    except (LLDSError, MisconfigurationException) as error:
        sys.exit(f"llds: {error}")
    except RuntimeError as error:
        if not is_lost_rank(error):
            raise
        sys.exit(
            f"llds: Expected rank {cast(Any, rank_zero_only).rank} to reach the others, got: {error}. Another rank has "
            "died; its own error, if it had time for one, is in its output. Resume with `--ckpt_path last`."
        )
    except OmegaConfBaseException as error:
        key = (error.full_key or "").partition(".")[2]
        sys.exit(f"llds: Expected the ${{...}} in `{key}` to lead to a value, got: {str(error).splitlines()[0]}.")

"""LightningCLI for a search agent, and running one command with it.

``rollout``, ``retrieval``, ``signals``, ``collapse``, ``stopping`` and ``policy_check`` configure the callbacks that
every run has under names of their own, so that an overlay or the command line can change one value of theirs; other
callbacks go to ``trainer.callbacks``.
"""

import errno
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
from jsonargparse import ActionYesNo
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from omegaconf.errors import OmegaConfBaseException

from llds.callbacks import (
    CollapseMonitor,
    GracefulStop,
    IterationSignals,
    LLDProbe,
    PolicyCheck,
    RetrievalCallback,
    RolloutCallback,
    RunLock,
    exit_status,
    list_checkpoints,
)
from llds.cli.config.errors import dead_link
from llds.cli.config.own_classes import IMPORT_FROM_HELP, check_import_from
from llds.cli.config.parser import errors_of_constructors
from llds.cli.config.saved import SaveConfig, config_of_run
from llds.cli.surroundings import find_own_classes, tell_of_indices
from llds.cli.table import COMMANDS
from llds.cli.training.ask import QUESTION_HELP, answer_question, prepare_for_question
from llds.cli.training.checkpoint_path import check_checkpoint, errors_of_damage
from llds.cli.training.late_loggers import LateLoggers
from llds.cli.training.lightning_settings import (
    check_lightning_settings,
    choose_accelerator,
    tell_of_idle_cores,
)
from llds.cli.training.parser import KEYS_OF_CLASSES, TrainingParser, with_class_of_help
from llds.cli.training.probe import ProbingTrainer, prepare_for_probe
from llds.cli.training.profile import PROFILE_HELP, with_profile
from llds.cli.training.quiet import quiet
from llds.cli.training.seeds import spread_seed
from llds.data import PromptDataModule
from llds.errors import ConfigurationError, RankError
from llds.files import recall_pins
from llds.modules import SearchAgentModule
from llds.strategies import is_lost_rank, use_sealed_checkpoints

STOPPED_BY_LADDER = 3
"""Exit status of a training that the collapse ladder has stopped."""
_ERRORS_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EFBIG)

_EPILOG = """\
keys below a class:
  llds {0} --model.help, --data.help, --model.llds_penalty.help, and so on
  llds configs show base                              # all keys with their values

keys of the classes that llds:base names, such as --model.optimization.learning_rate 1e-6:
{1}

security:
  A configuration file can import and run any module of this machine: use -c only with files that you trust as you
  would trust a script. Checkpoints cannot, unless --weights_only is false.

examples:
{2}"""
_EXAMPLES = {
    "fit": """\
  llds fit -c llds:quickstart
  llds fit -c llds:quickstart --ckpt_path last        # goes on after Ctrl-C or `kill -9`
  llds fit -c llds:base --model.policy MODEL_FOLDER --data.train train.jsonl \\
      --retrieval.retriever.corpus corpus.jsonl""",
    "validate": """\
  llds validate -c llds:quickstart                    # the policy as it is in its folder
  llds validate -c runs/base/config.yaml --ckpt_path last""",
    "test": """\
  llds test -c llds:quickstart --ckpt_path last
  llds test -c runs/base/config.yaml --ckpt_path last --data.test nq.jsonl""",
    "predict": """\
  llds predict -c llds:quickstart --ckpt_path last --question "What is the capital of Ghana?"
  llds predict -c llds:quickstart --data.predict questions.jsonl""",
    "probe": """\
  llds probe -c llds:quickstart --ckpt_path last
  llds probe -c runs/base/config.yaml --ckpt_path last --probe.questions 16 --probe.label few""",
}


class SearchAgentCLI(LightningCLI):
    """LightningCLI with the callbacks of a search agent and checkpoints found by ``--ckpt_path last``.

    Args:
        command: The subcommand to run; None builds everything and runs nothing.
        *args: Of LightningCLI.
        **kwargs: Of LightningCLI.
    """

    def __init__(self, command: str | None, *args: Any, **kwargs: Any) -> None:
        self._command = command
        super().__init__(*args, **kwargs)

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
        parser.add_lightning_class_args(GracefulStop, "stopping")
        parser.add_lightning_class_args(PolicyCheck, "policy_check")

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The one subcommand, with the arguments of the trainer's method that are not the user's.

        A parser for each of them would cost a second of every start.
        """
        ours = {"model", "datamodule", "dataloaders", "train_dataloaders", "val_dataloaders"}
        return {self._command: ours | {"verbose", "return_predictions"}} if self._command else {}

    def setup_parser(
        self, add_subcommands: bool, main_kwargs: dict[str, Any], subparser_kwargs: dict[str, Any]
    ) -> None:
        """Set the parser up, with what only one command takes."""
        super().setup_parser(add_subcommands, main_kwargs, subparser_kwargs)
        for name, parser in self._subcommand_parsers.items() if add_subcommands else ():
            if name == "predict":
                parser.add_argument("--question", type=str | None, default=None, help=QUESTION_HELP)
            if name == "probe":
                # The group of the subcommand's own arguments leaves its name to the callback.
                (parser.groups or {}).pop("probe", None)
                parser.add_lightning_class_args(LLDProbe, "probe")
            parser.set_defaults(weights_only=True)  # Lightning's default would run what a checkpoint brings

    def after_fit(self) -> None:
        """End with a status of its own where the collapse ladder has stopped the run, which is no error."""
        if any(isinstance(one, CollapseMonitor) and one.has_stopped for one in self.trainer.callbacks):  # type: ignore[attr-defined]
            rank_zero_info("llds: the run was stopped by `collapse.ladder`; --ckpt_path last goes on with it.")
            sys.exit(exit_status(self.trainer, STOPPED_BY_LADDER))

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
            spread_seed(self.config)
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
        config.trainer.accelerator = choose_accelerator(config.trainer.accelerator)
        spread_seed(config)
        recall_pins(config_of_run(config.ckpt_path))

    def _run_subcommand(self, subcommand: str) -> None:
        """Run; weights that prove to be damaged when they are read are one sentence too."""
        callbacks: list[pl.Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        callbacks.insert(0, LateLoggers(self.trainer))
        if subcommand == "fit":
            callbacks.insert(0, RunLock())
        [stopping] = [one for one in callbacks if isinstance(one, GracefulStop)]
        use_sealed_checkpoints(self.trainer)
        with errors_of_damage(self.config[subcommand].ckpt_path), stopping.handling(self.trainer, subcommand == "fit"):
            super()._run_subcommand(subcommand)

    def instantiate_classes(self) -> None:
        """Build everything; an error of ours from a constructor comes out as it was raised, not wrapped.

        Raises:
            ConfigurationError: If a constructor refuses a value.
        """
        with errors_of_constructors(self.config[self.subcommand] if self.subcommand else self.config):
            super().instantiate_classes()
        if self.subcommand == "fit":
            check_lightning_settings(self.trainer, self._validates_between_iterations())
            tell_of_idle_cores(self.trainer)

    def _validates_between_iterations(self) -> bool:
        """Whether it does so more often than once, at the end of the run's only epoch."""
        return self.datamodule.sources["validation"] is not None and self.trainer.val_check_interval != 1.0

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer, with a profile where a training shall have one.

        Raises:
            ConfigurationError: If Lightning refuses a setting, or this machine cannot serve it.
        """
        if self.subcommand in (None, "fit") and self._get(self.config, "profile"):
            kwargs["callbacks"] = with_profile(self._get(self.config_init, "trainer").callbacks)
        try:
            return super().instantiate_trainer(**kwargs)
        except (ValueError, ModuleNotFoundError, MisconfigurationException) as error:
            said = f"Expected `trainer` settings that work on this machine, got: {error}"
            if "enable_checkpointing" in said:  # ours is what Lightning calls by the name of its own
                said += " Take llds.callbacks.IterationCheckpoint out of `trainer.callbacks`, too."
            raise ConfigurationError(said) from error

    def _set_seed(self) -> None:
        """Set the one seed.

        Raises:
            ConfigurationError: If it is no seed.
        """
        try:
            super()._set_seed()
        except ValueError as error:
            raise ConfigurationError(f"Expected `seed_everything` to be a seed, got: {error}.") from error

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


def _texts(command: str) -> dict[str, str]:
    """What the parser of a subcommand says of it."""
    return {
        "description": COMMANDS[command].help,
        "usage": f"llds {command} -c FILE [-c FILE ...] [--KEY VALUE ...]",
        "epilog": _EPILOG.format(command, KEYS_OF_CLASSES, _EXAMPLES[command]),
    }


def build_cli(args: list[str] | None = None, run: bool = True) -> SearchAgentCLI:
    """Parse, instantiate and, unless told otherwise, run.

    Args:
        args: Arguments; None takes those of the process.
        run: Whether the first argument is a subcommand to run; else everything is only built.
    """
    words = sys.argv[1:] if args is None else args
    words = with_class_of_help(words) if run else words
    command = words[0] if run else None
    return SearchAgentCLI(
        command,
        SearchAgentModule,
        PromptDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        seed_everything_default=0,
        parser_class=TrainingParser,
        parser_kwargs={"prog": "llds", "parser_mode": "omegaconf+"} | ({command: _texts(command)} if command else {}),
        trainer_class=ProbingTrainer,
        save_config_callback=SaveConfig,
        save_config_kwargs={"command": words},
        args=words,
        run=run,
    )


def _is_of_disk(error: OSError) -> bool:
    """Whether a disk is full, read-only, broken or gone, wherever a log or a record is written."""
    is_gone = isinstance(error, FileNotFoundError) and not Path(str(error.filename)).parent.exists()
    return error.errno in _ERRORS_OF_DISKS or is_gone


def run_command(name: str, args: Sequence[str]) -> None:
    """Run a command; what Lightning, other ranks or OmegaConf raise is one sentence and exit status 1 too.

    Args:
        name: The command.
        args: Arguments after it.

    Raises:
        LLDSError: What llds refuses.
    """
    # Before any thread pool of a tokenizer exists; its own parallelism deadlocks after forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    quiet()
    tell_of_indices(lambda: cast(Any, rank_zero_only).rank == 0)
    find_own_classes()
    try:
        build_cli([name, *args])
    except RankError as error:  # all ranks have the same one
        sys.exit(f"llds: {error}" if cast(Any, rank_zero_only).rank == 0 else 1)
    except MisconfigurationException as error:
        sys.exit(f"llds: {error}")
    except OSError as error:
        if not _is_of_disk(error):
            raise
        sys.exit(
            f"llds: Expected a disk that can be written, got: {error}. Make room, or bring it back; a training goes on "
            "with `--ckpt_path last`."
        )
    except RuntimeError as error:
        if not is_lost_rank(error):
            raise
        sys.exit(
            f"llds: Expected rank {cast(Any, rank_zero_only).rank} to reach the others, got: {error}. Another rank has "
            "died; its own error, if it had time for one, is in its output. Resume with `--ckpt_path last`."
        )
    except OmegaConfBaseException as error:
        sys.exit(f"llds: {dead_link(error, (error.full_key or '').partition('.')[2])}")


fit, validate, test, predict, probe = (
    partial(run_command, name) for name in ("fit", "validate", "test", "predict", "probe")
)

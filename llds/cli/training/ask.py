"""``llds predict --question "..."``: one question, answered before one's eyes; nothing is written."""

import lightning.pytorch as pl
from jsonargparse import Namespace
from rich.console import Console
from rich.text import Text

from llds.callbacks import RolloutCallback
from llds.cli.training.conversation import Conversation
from llds.cli.training.quiet import quiet_lightning
from llds.data import PromptDataModule
from llds.errors import ConfigurationError, LLDSError
from llds.modules import SearchAgentModule

QUESTION_HELP = "A question to answer instead of those in files; turns are shown as they come, nothing is written."


def prepare_for_question(config: Namespace) -> None:
    """Take out of a configuration what a single question does not need: files, loggers, bars.

    Args:
        config: Of the subcommand; changed in place.

    Raises:
        ConfigurationError: If the question is empty.
    """
    if not config.question.strip():
        raise ConfigurationError('Expected a question after --question, got nothing. Write --question "...".')
    config.trainer.logger = False
    config.trainer.callbacks = []
    config.trainer.enable_progress_bar = False
    quiet_lightning()


def answer_question(
    question: str, trainer: pl.Trainer, module: SearchAgentModule, data: PromptDataModule, ckpt_path: str | None
) -> None:
    """Roll out one question and print its turns.

    Args:
        question: As text.
        trainer: Without loggers and with a `RolloutCallback`.
        module: The search agent.
        data: Brings the template.
        ckpt_path: Checkpoint; None asks the policy as it is in its folder.

    Raises:
        LLDSError: If the episode failed by infrastructure; the message says by what.
    """
    console = Console()
    console.print(Text(f"{'question':<12}", style="cyan") + Text(question), soft_wrap=not console.is_terminal)
    conversation = Conversation(console, module.tokenizer, module.protocol)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, RolloutCallback):
            callback.watcher = conversation
    data.ask(question)
    batches = trainer.predict(module, datamodule=data, ckpt_path=ckpt_path, return_predictions=True)
    [trajectory] = batches[0].trajectories  # type: ignore[index, union-attr]
    if trajectory.status == "failed":
        raise LLDSError(f"Expected an answer, got a failure: {trajectory.failure}")
    if trajectory.answer is None:
        why = trajectory.status.replace("_", " ")
        console.print(Text(f"{'no answer':<12}", style="cyan") + Text(f"The episode was {why}."))

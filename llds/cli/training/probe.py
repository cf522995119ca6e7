"""``llds probe``: what one update would do to the likelihood of correct responses, from a checkpoint, and why.

The run is restored as ``llds fit`` would go on with it, probed, and left: nothing is trained, and of the run's folder
only ``probes/`` is written.
"""

import warnings
from pathlib import Path

import lightning.pytorch as pl
from jsonargparse import Namespace
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from llds.callbacks import LLDProbe
from llds.cli.training.quiet import quiet_lightning
from llds.data import PromptDataModule
from llds.modules import SearchAgentModule
from llds.probes import PLACES, Probe, ProbedAction, ProbedQuestion, probe_folder

SHOWN = 8
"""Most rows of a table on the screen; the files have all."""

SHOWN_CHARS = 160
"""Most characters of a text on the screen."""


class ProbingTrainer(pl.Trainer):
    """Customize every aspect of training (Lightning's trainer; this one can also probe)."""

    def probe(
        self,
        model: SearchAgentModule,
        datamodule: PromptDataModule,
        ckpt_path: str | Path | None = None,
        weights_only: bool | None = None,
    ) -> None:
        """Restore a run, probe its policy, print what was found, and stop.

        Args:
            model: The search agent.
            datamodule: Its questions.
            ckpt_path: Checkpoint with weights and optimizer; null probes the policy as it is in its folder.
            weights_only: Whether a checkpoint that holds more than tensors and plain values is refused.
        """
        callbacks: list[pl.Callback] = self.callbacks  # type: ignore[attr-defined]
        callbacks.sort(key=lambda callback: not isinstance(callback, LLDProbe))  # where it wants to be: first
        callbacks.append(_ProbeAndStop())
        self.fit(model, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=weights_only)


def prepare_for_probe(config: Namespace) -> None:
    """Take out of a configuration what only a training needs: what it logs, writes and shows.

    Args:
        config: Of the subcommand; changed in place.
    """
    config.trainer.logger = False
    config.trainer.callbacks = []
    config.trainer.enable_progress_bar = False
    config.trainer.enable_model_summary = False
    config.trainer.enable_checkpointing = False
    config.trainer.num_sanity_val_steps = 0
    config.trainer.min_epochs = config.trainer.min_steps = None  # they would train
    warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint")  # they are left out
    quiet_lightning()


class _ProbeAndStop(pl.Callback):
    """Probes when everything is restored, and ends the run before its first iteration."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Probe with every probe that is configured, print what was found, and stop."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, LLDProbe) and isinstance(pl_module, SearchAgentModule):
                found = callback.probe(trainer, pl_module)
                if trainer.is_global_zero:
                    print_probe(found, probe_folder(trainer.default_root_dir, found.iteration, callback.label))
        trainer.should_stop = True


def print_probe(probe: Probe, folder: Path, console: Console | None = None) -> None:
    """Print a probe: the summary, the questions that lose most, and which wrong trajectory pulls which right action.

    Args:
        probe: What was found.
        folder: Where all of it is.
        console: Where to; None is the screen.
    """
    console = console or Console(highlight=False)
    console.print(_summary(probe))
    if probe.questions:
        console.print(_questions(probe), _pulls(probe))
    console.print(f"All questions and actions: {folder}", soft_wrap=True)


def _summary(probe: Probe) -> Group:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    settings = probe.settings
    grid.add_row("probe", f"before iteration {probe.iteration + 1}: {probe.asked} questions x {settings['rollouts']}")
    grid.add_row("update", f"{settings['optimizer']}, {settings['steps']} step(s), rate {settings['learning_rate']:g}")
    grid.add_row("counted", f"{len(probe.questions)} questions with right and wrong answers")
    if probe.share_negative is not None:
        verdict = "above 50%: as in phase III" if probe.is_phase_iii else "not above 50%"
        grid.add_row("lost", Text(f"{probe.share_negative:.0%} of them lose likelihood ({verdict})", style="bold"))
        grid.add_row("mean change", f"{probe.mean_change:+.5f} nats per token of correct responses")
        for place in PLACES:
            change, share = probe.mean_change_of(place), probe.share_negative_of(place)
            if change is not None and share is not None:
                grid.add_row(f"  {place}", f"{change:+.5f}; {share:.0%} of these actions lose")
    if probe.agreement is not None:
        found = probe.agreement
        grid.add_row(
            "G",
            f"foretells the change of {found.pairs} actions with rank correlation {found.spearman:+.2f} (linear "
            f"{found.pearson:+.2f}), the sign of {found.same_sign:.0%}",
        )
    grid.add_row("seconds", ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in probe.seconds.items()))
    return Group(grid)


def _questions(probe: Probe) -> Table:
    table = Table(title="Questions that lose most", box=SIMPLE_HEAD, pad_edge=False, title_justify="left")
    table.add_column("question", overflow="fold")
    for name in ("right", "nats/token", *PLACES):
        table.add_column(name, justify="right", no_wrap=True)
    for question in sorted(probe.questions, key=lambda one: one.change_per_token)[:SHOWN]:
        right = f"{len(question.correct)}/{len(question.trajectories)}"
        places = [_signed(question.change_of(place)) for place in PLACES]
        table.add_row(Text(question.question), right, _signed(question.change_per_token), *places)
    return table


def _pulls(probe: Probe) -> Table:
    table = Table(
        title="Right actions that the update threatens most, by G, and the wrong trajectory that pulls most",
        box=SIMPLE_HEAD,
        pad_edge=False,
        title_justify="left",
    )
    for name in ("right action", "wrong trajectory"):
        table.add_column(name, overflow="fold", ratio=1)
    for name in ("its pull", "G", "nats"):
        table.add_column(name, justify="right", no_wrap=True)
    # Right trajectories that begin with the same words have the action in common.
    pairs = {(one.prompt_id, action.text): (one, action) for one in probe.questions for action in one.actions}
    for question, action in sorted(pairs.values(), key=lambda pair: -pair[1].g)[:SHOWN]:
        wrong, pull = _puller(question, action)
        table.add_row(Text(action.text.strip()), Text(wrong), pull, f"{action.g:+.3g}", _signed(action.change))
    return table


def _puller(question: ProbedQuestion, action: ProbedAction) -> tuple[str, str]:
    found = question.strongest_pull(action)
    if found is None:
        return "-", "-"
    number, pull = found
    text = " ".join(action.strip() for action, _ in question.trajectories[number].turns)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}...", f"{pull:+.3g}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.5f}"

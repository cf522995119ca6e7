"""Results of ``llds validate`` and ``llds test``: tables on the screen, and a record with its card on disk."""

from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from llds.callbacks.evaluation.card import make_card, policy_label
from llds.evaluation import (
    Average,
    Estimate,
    QuestionResult,
    SourceResult,
    Summary,
    new_record_folder,
    summarize,
    write_record,
)
from llds.evaluation.markdown import average_name
from llds.modules import SearchAgentModule


class EvaluationTable(pl.Callback):
    """Prints results by data source and writes them, with an evaluation card, to ``evaluation/`` in the run's folder.

    After ``llds test`` and ``llds validate``; not after each validation during training. Each evaluation gets a folder
    of its own, named after time, command and checkpoint.
    """

    def on_test_end(self, trainer: pl.Trainer, pl_module: SearchAgentModule) -> None:
        """Print and write the results."""
        self._show(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: SearchAgentModule) -> None:
        """Print and write the results, unless training goes on."""
        if trainer.state.fn == "validate":
            self._show(trainer, pl_module)

    def _show(self, trainer: pl.Trainer, pl_module: SearchAgentModule) -> None:
        if not pl_module.evaluation.questions:
            return
        card = make_card(trainer, pl_module)
        if not trainer.is_global_zero:
            return
        folder = new_record_folder(Path(trainer.default_root_dir), card["stage"], policy_label(trainer, pl_module))
        write_record(folder, card, pl_module.evaluation.questions)
        print_results(Console(), summarize(pl_module.evaluation.questions), f"Results of llds {card['stage']}")
        _say_failures(pl_module.evaluation.questions)
        rank_zero_info(f"Results, card and questions: {folder}")


def print_results(console: Console, summary: Summary, title: str) -> None:
    """Print two tables that fit 80 columns: answers, and what the agent did.

    Args:
        console: Where to.
        summary: The numbers.
        title: Stands above the first.
    """
    console.print(answers_table(summary, title), behavior_table(summary))


def answers_table(summary: Summary, title: str) -> Table:
    """EM, substring EM and F1 in percent, each with its 95% interval: data sources, averages, all questions."""
    table = _table("data source", ("n", "EM", "substring EM", "F1"), f"{title} (%, 95% interval)")
    for source in summary.sources:
        table.add_row(source.name, str(source.n), *_scores(source))
    if len(summary.sources) > 1:
        table.add_section()
    for average in summary.averages:
        table.add_row(f"average {average_name(average)}", "", *_scores(average))
    if len(summary.sources) > 1:
        table.add_row(summary.all_questions.name, str(summary.all_questions.n), *_scores(summary.all_questions))
    return table


def behavior_table(summary: Summary) -> Table:
    """Tool calls, valid actions, retrieval hits, lengths and failures by data source."""
    headings = ("calls", "valid", "hits", "wrote", "total", "cut", "failed")
    table = _table("data source", headings, "")
    table.caption = (
        "tool calls per question; valid actions; questions with passages that hold a gold answer; tokens that the "
        "policy wrote, and in total; cut at a limit; failed by infrastructure (they count as wrong)"
    )
    rows = [*summary.sources] + [summary.all_questions] * (len(summary.sources) > 1)
    for source in rows:
        table.add_row(
            source.name,
            f"{source.searches:.2f}",
            f"{100 * source.valid_action_rate:.1f}%",
            "-" if source.hit_rate is None else f"{100 * source.hit_rate:.1f}%",
            f"{source.action_tokens:.0f}",
            f"{source.total_tokens:.0f}",
            f"{100 * source.truncated:.1f}%",
            str(source.failed),
        )
    return table


def _table(first: str, headings: Sequence[str], title: str) -> Table:
    table = Table(title=title or None, box=SIMPLE_HEAD, pad_edge=False, caption_justify="left")
    table.add_column(first, overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _scores(result: SourceResult | Average) -> list[str]:
    return [_percent(estimate) for estimate in (result.exact_match, result.substring_match, result.f1)]


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} ({100 * estimate.low:.1f}-{100 * estimate.high:.1f})"


def _say_failures(questions: Sequence[QuestionResult]) -> None:
    failed = [question for question in questions if question.status == "failed"]
    if failed:
        rank_zero_info(
            f"{len(failed)} of {len(questions)} trajectories failed and count as wrong; the first: {failed[0].failure}"
        )

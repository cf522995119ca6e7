"""Results of ``llds validate`` and ``llds test`` on the screen and as JSON."""

import json
from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl
from rich.console import Console
from rich.table import Table

from llds.evaluation import SourceResult, evaluate_by_source
from llds.modules import SearchAgentModule


class EvaluationTable(pl.Callback):
    """Prints a table by data source after ``llds test`` and writes ``test_results.json`` into the run's folder.

    After ``llds validate`` likewise (``validate_results.json``); not after each validation during training.
    """

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: SearchAgentModule) -> None:
        """Print and write the results."""
        self._show(trainer, pl_module, "test")

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: SearchAgentModule) -> None:
        """Print and write the results, unless training goes on."""
        if trainer.state.fn == "validate":
            self._show(trainer, pl_module, "validate")

    def _show(self, trainer: pl.Trainer, pl_module: SearchAgentModule, name: str) -> None:
        if not trainer.is_global_zero:
            return
        results = evaluate_by_source(pl_module.evaluated)
        Console().print(results_table(results, f"Results of llds {name}"))
        path = Path(trainer.default_root_dir) / f"{name}_results.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([vars(result) for result in results], indent=2) + "\n")


def results_table(results: Sequence[SourceResult], title: str) -> Table:
    """A table with one row per data source, then one over all.

    Args:
        results: As `evaluate_by_source` gives them: over all first.
        title: Stands above the table.
    """
    table = Table(title=title)
    table.add_column("data source")
    for heading in ("n", "EM", "95% interval", "F1", "searches", "valid actions", "failed"):
        table.add_column(heading, justify="right")
    for result in [*results[1:], *results[:1]]:
        table.add_row(
            result.name,
            str(result.n),
            f"{100 * result.exact_match:.1f}",
            f"{100 * result.exact_match_low:.1f} - {100 * result.exact_match_high:.1f}",
            f"{100 * result.f1:.1f}",
            f"{result.searches:.2f}",
            f"{100 * result.valid_action_rate:.1f}%",
            str(result.failed),
        )
    return table

"""Comparing experiments: evaluations that differ in their seeds alone become one row, with mean and interval."""

from collections.abc import Sequence
from typing import Any

from llds.evaluation import Average, EvaluationRecord, PaperTable, SeededRun, SeedGroup, seed_table, summarize
from llds.evaluation.markdown import column_name, columns_of
from llds.evaluation.paired import Metric
from llds.evaluation.settings import flatten, read_config, run_settings

_NOT_CONDITIONS = ("created.", "environment.", "policy.", "rollout.seed")
_CONDITIONS_OF_POLICY = ("policy.iteration", "policy.module")


def seeded_run(record: EvaluationRecord, name: str) -> SeededRun:
    """An evaluation as a run: its settings are those of the run in whose folder it lies.

    Args:
        record: The evaluation.
        name: What it is called.

    Raises:
        DataError: If the configuration of the run is damaged.
    """
    settings = run_settings(read_config(record.folder.absolute().parent.parent))
    card = flatten(record.card)
    conditions = {
        key: value for key, value in card.items() if key in _CONDITIONS_OF_POLICY or not key.startswith(_NOT_CONDITIONS)
    }
    weights = card.get("policy.weights_sha256")
    return SeededRun(name, settings, conditions, str(record.folder) if weights is None else str(weights))


def table_of_groups(
    groups: Sequence[SeedGroup],
    runs: Sequence[SeededRun],
    records: Sequence[EvaluationRecord],
    metric: Metric,
    title: str,
) -> PaperTable:
    """The table of some groups: a column for each data source and average, in percent.

    Args:
        groups: Of the runs.
        runs: One per record.
        records: The evaluations.
        metric: What is shown.
        title: Its name.
    """
    figures: list[dict[str, float]] = []
    order: dict[str, tuple[int, int]] = {}
    for record in records:
        columns = columns_of(summarize(record.questions))
        figures.append({column_name(one): 100 * _value(one, metric) for one in columns})
        for place, one in enumerate(columns):
            order.setdefault(column_name(one), (isinstance(one, Average), place))
    digits = dict.fromkeys(sorted(order, key=lambda name: order[name]), 1)
    note = f"{title} in percent; after ± half of the 95% interval of the mean over training runs (Student's t)."
    return seed_table(groups, runs, figures, digits, note)


def _value(column: Any, metric: Metric) -> float:
    return float(vars(column)[metric].value)

"""A log and what is said of it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from llds.errors import DataError
from llds.files.bounds import check_yaml, read_bytes
from llds.monitor import LEVELS, Level, MetricTable, Settings, Summary, Verdict, give_verdict, read_metrics, summarize
from llds.monitor import diagnose as diagnose_rows
from llds.monitor.verdict import UNJUDGED


@dataclass(frozen=True)
class Diagnosed:
    """One log.

    Attributes:
        table: Its metrics.
        summary: What was seen in it.
        verdict: What it lets one say as a whole.
    """

    table: MetricTable
    summary: Summary
    verdict: Verdict

    @property
    def level(self) -> Level:
        """At its end."""
        return self.summary.now.level

    @property
    def is_judged(self) -> bool:
        """Whether it could be judged at all."""
        return self.verdict.kind not in UNJUDGED

    @property
    def badness(self) -> tuple[int, int]:
        """To sort by, the worst first."""
        return -LEVELS.index(self.level), -len(self.summary.alarms)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; the schema is docs/diagnose.schema.json."""
        now = self.summary.now.as_dict()
        return {
            "path": self.table.path,
            "framework": self.table.framework,
            "iterations": len(self.table.rows),
            "signals": self.table.signals,
            "ignored": self.table.ignored,
            "verdict": asdict(self.verdict),
            "diagnosis": now if self.is_judged else now | {"phase": None},
            "phases": [vars(stretch) for stretch in self.summary.phases if self.is_judged],
            "alarms": [{"start": start, "end": end} for start, end in self.summary.alarms],
        }


def read_diagnosed(path: str, warmup: int) -> Diagnosed:
    """Read a log and judge it.

    Raises:
        DataError: If it cannot be read.
    """
    table = read_metrics(path)
    said = diagnose_rows(table.rows, warmup=warmup, settings=_settings(Path(path)))
    return Diagnosed(table, summarize(said), give_verdict(table.rows, said))


def worst_first(found: Sequence[Diagnosed]) -> list[Diagnosed]:
    """Sorted by how bad they are."""
    return sorted(found, key=lambda one: one.badness)


def _settings(run: Path) -> Settings:
    """Of the configuration in a run's folder, if there is one."""
    path = run / "config.yaml"
    if not path.is_file():
        return Settings()
    try:
        text = read_bytes(path).decode()
        check_yaml(text)
        config = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"Expected a configuration in {path}, got: {error}. Remove the file.") from error
    return Settings.from_config(config if isinstance(config, dict) else {})

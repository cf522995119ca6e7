"""A run as the report sees it: metrics, what the detector says of them, settings, trajectories, incidents, probes."""

import json
import math
import zlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from llds.errors import DataError
from llds.evaluation.settings import flatten, read_config
from llds.files.bounds import read_bytes
from llds.monitor import Diagnosis, Settings, Verdict, diagnose, give_verdict, in_hindsight
from llds.monitor.diagnosis import PHASES
from llds.monitor.sources import MetricTable, read_metrics
from llds.monitor.verdict import UNJUDGED
from llds.report.incidents import Incident, read_incidents
from llds.report.probes import ReportedProbe, read_probes


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        name: What the page calls it.
        path: Its folder, or its metrics file.
        table: Its metrics, in our names.
        config: Its configuration, flat: keys joined by dots; empty where there is none.
        trajectories: Its trajectory files, in order of their iterations.
        incidents: What the collapse ladder did in it, in order.
        probes: Its LLD probes, in order of their iterations.
        settings: What the detector knows of its settings.
    """

    name: str
    path: Path
    table: MetricTable
    config: dict[str, Any]
    trajectories: list[Path]
    incidents: list[Incident]
    probes: list[ReportedProbe]
    settings: Settings = field(default_factory=Settings)

    @cached_property
    def diagnoses(self) -> list[Diagnosis]:
        """The detector's judgment of each iteration, its phases in hindsight."""
        return in_hindsight(diagnose(self.table.rows, settings=self.settings))

    @cached_property
    def verdict(self) -> Verdict:
        """What its log as a whole lets one say."""
        return give_verdict(self.table.rows, self.diagnoses)

    @property
    def phase(self) -> str:
        """The phase at its end, in words; a run that is too short to be judged is not healthy."""
        phase = self.diagnoses[-1].phase
        is_unjudged = self.verdict.kind in UNJUDGED and phase == "healthy"
        return self.verdict.words.partition(":")[0] if is_unjudged else PHASES[phase]

    @property
    def logged(self) -> set[str]:
        """Metric keys that it has values of."""
        return {signal for _, row in self.table.rows for signal in row}

    def series(self, signal: str) -> tuple[list[int], list[float]]:
        """Iterations at which a signal exists and is a number, and its values there."""
        rows = [(iteration, row[signal]) for iteration, row in self.table.rows if signal in row]
        points = [(iteration, value) for iteration, value in rows if math.isfinite(value)]
        return [iteration for iteration, _ in points], [value for _, value in points]


def read_run(path: str | Path, name: str | None = None) -> Run:
    """Read a run.

    Args:
        path: Folder of a run of llds, or whatever `llds.monitor.sources.read_metrics` reads.
        name: What to call it; None is the last part of the path.

    Raises:
        DataError: If no metrics are there, or a file cannot be read.
    """
    place = Path(path)
    table = read_metrics(place)
    settings = read_config(place)
    return Run(
        name=name or place.resolve().name,
        path=place,
        table=table,
        config=flatten(settings),
        trajectories=sorted(place.glob("trajectories/iteration-*.jsonl.gz")),
        incidents=read_incidents(place),
        probes=read_probes(place),
        settings=Settings.from_config(settings),
    )


def read_trajectories(path: Path) -> list[dict[str, Any]]:
    """The records of a trajectory file.

    Raises:
        DataError: If it is damaged.
    """
    try:
        return [json.loads(line) for line in read_bytes(path).splitlines()]
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise DataError(f"Expected trajectories in {path}, got: {error}. Remove the file.") from error

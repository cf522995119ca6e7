"""The folder that an incident leaves: what was seen, what was decided, with which settings, on which trajectories.

It is there whole or not at all. That it cannot be written (disk full, no permission) is a warning and never ends a run.
"""

import csv
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from llds.callbacks.collapse.worst_trajectories import worst_trajectories
from llds.callbacks.ladder import Moment, Rung
from llds.callbacks.trajectory_log.file import TrajectoryFile, trajectory_updates
from llds.monitor import PHASES, Diagnosis
from llds.strategies import best_effort, rank, together

_FOLDER = "incidents"


class IncidentFolder:
    """Writes the folders of a run's incidents, on rank 0.

    Args:
        trajectories: How many trajectories one holds.
    """

    def __init__(self, trajectories: int) -> None:
        self.trajectories = trajectories

    def open(self, root: Path, iteration: int) -> Path | None:
        """Make an empty folder to write into; every rank must call.

        Args:
            root: Folder of the run.
            iteration: Of the incident.

        Returns:
            The folder, which has its name only when it is closed; None where it cannot be made.
        """
        scratch = root / _FOLDER / f".partial-iteration-{iteration:06d}"
        return scratch if together(lambda: rank() != 0 or _make_empty(scratch))[0] else None

    def discard(self, scratch: Path | None) -> None:
        """Remove a folder that is not needed after all."""
        if scratch is not None and rank() == 0:
            shutil.rmtree(scratch, ignore_errors=True)

    def close(self, moment: Moment, rung: Rung, signals: Sequence[Mapping[str, float]]) -> Path | None:
        """Fill the folder and give it its name, after the rung that went furthest.

        Args:
            moment: What happened.
            rung: The last that acted.
            signals: Of the iterations up to this one.

        Returns:
            The folder; None where there is none.
        """
        scratch = moment.scratch
        if scratch is None:
            return None
        what = re.sub(r"(?<!^)(?=[A-Z])", "-", type(rung).__name__).lower()
        path = scratch.with_name(f"iteration-{moment.diagnosis.iteration:06d}-{what}")
        with best_effort("No folder of the incident"):
            _write_signals(scratch / "signals.csv", signals)
            (scratch / "decision.md").write_text(decision(moment.diagnosis, moment.done), encoding="utf-8")
            _copy_config(Path(moment.trainer.default_root_dir) / "config.yaml", scratch)
            self._write_trajectories(scratch / "trajectories.jsonl.gz", moment)
            if path.exists():  # of a run that was killed and comes here again
                shutil.rmtree(path)
            os.replace(scratch, path)
            return path
        self.discard(scratch)
        return None

    def _write_trajectories(self, path: Path, moment: Moment) -> None:
        file = TrajectoryFile(path, moment.module.tokenizer)
        updates = trajectory_updates(moment.batch)
        file.write(worst_trajectories(moment.batch.trajectories, updates, self.trajectories), updates)
        file.close()


def decision(found: Diagnosis, done: Sequence[str]) -> str:
    """The decision in words, as Markdown."""
    facts = [
        f"- Phase: {PHASES[found.phase]}",
        f"- Since: iteration {found.since}",
        f"- Reward: {found.reward.words if found.reward else 'not logged'}",
        f"- Cause: {(found.cause or 'unknown').replace('_', ' ')}",
        f"- Confidence: {found.confidence:.0%} of the signs of collapse that its signals can show",
    ]
    seen = [
        f"- {one.words} (`{one.signal}`, since iteration {one.since}, strength {one.strength:.2f})"
        for one in found.symptoms
    ]
    parts: list[tuple[str, list[str]]] = [
        (f"# Iteration {found.iteration}: {found.level}", facts),
        ("## What points to the cause", [f"- {words}" for words in found.evidence]),
        ("## What moved, in order", [f"- {words}" for words in found.moved]),
        ("## What lasts, strongest first", seen),
        ("## What the ladder did", [f"- {words}" for words in done] or ["- nothing but tell"]),
        ("## Advice", [found.advice] if found.advice else []),
    ]
    return "\n\n".join(f"{head}\n\n" + "\n".join(lines) for head, lines in parts if lines) + "\n"


def _make_empty(scratch: Path) -> bool:
    try:
        if scratch.exists():
            shutil.rmtree(scratch)
        scratch.mkdir(parents=True)
    except OSError as error:
        rank_zero_warn(f"No folder of the incident: {error}. The run goes on.")
        return False
    return True


def _write_signals(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    names: dict[str, Any] = dict.fromkeys(["iteration", "step", *(name for row in rows for name in row)])
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(names))
        writer.writeheader()
        writer.writerows(rows)


def _copy_config(source: Path, folder: Path) -> None:
    if source.exists():  # not where a run was started from Python
        shutil.copy(source, folder)

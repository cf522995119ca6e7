"""What the collapse ladder did in a run: the folders that its incidents leave."""

import re
from dataclasses import dataclass
from pathlib import Path

_NAME = re.compile(r"iteration-(\d+)-(.+)")
_DONE = "## What the ladder did"


@dataclass(frozen=True)
class Incident:
    """One incident.

    Attributes:
        iteration: At which the ladder acted.
        action: The rung that went furthest, such as ``roll-back``.
        done: What was done, in words.
        folder: Where signals, settings and the worst trajectories are.
    """

    iteration: int
    action: str
    done: list[str]
    folder: Path

    @property
    def has_acted(self) -> bool:
        """Whether it did more than tell."""
        return self.action not in ("log", "warn")


def read_incidents(run: Path) -> list[Incident]:
    """The incidents of a run's folder, in order; none where there are none.

    Args:
        run: Folder of the run.
    """
    found = []
    for folder in sorted(run.glob("incidents/iteration-*")):
        name = _NAME.fullmatch(folder.name)
        if name is not None and folder.is_dir():
            found.append(Incident(int(name[1]), name[2].replace("-", " "), _done(folder / "decision.md"), folder))
    return found


def _done(decision: Path) -> list[str]:
    """The list below the heading; empty where the file is not as expected."""
    if not decision.is_file():
        return []
    part = decision.read_text(encoding="utf-8", errors="replace").partition(f"{_DONE}\n")[2].partition("\n## ")[0]
    return [line.removeprefix("- ") for line in part.splitlines() if line.startswith("- ")]

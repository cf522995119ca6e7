"""Measure the collapse detector on recorded runs: recall, false alarms, lead, and the cause.

    python tools/evaluate_detector.py tests/recordings/prototype      # the half that nothing was tuned on
    python tools/evaluate_detector.py --half tuned tests/recordings/prototype
    python tools/evaluate_detector.py --signals-of verl tests/recordings/prototype    # with what verl logs only
    python tools/evaluate_detector.py --half all tests/recordings/small     # 40 trajectories an iteration
    python tools/evaluate_detector.py --half all MY_RUNS    # a folder whose recordings or runs llds diagnose reads
    python tools/evaluate_detector.py --half all --match 'seed5(?!0[0-5])' tools/experiments/records/wide

A path is that of a study (`study.py`), with its ending or without, or a folder of runs. A run belongs to the tuned half
when the SHA-256 of its name is even. Truth is `llds.monitor.hindsight`. The cause of a run is known when its study or
the name of its folder tells it (recordings of fault injections), or its configuration (random rewards, a quantized
sampler); and healthy runs get faults put into their metrics (`detector_faults.py`).
"""

import argparse
import copy
import gzip
import hashlib
import json
import math
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from detector_faults import FAULTS, Rows
from study import CAUSE, Study

from llds.errors import DataError
from llds.monitor import Diagnosis, diagnose, summarize
from llds.monitor.causes import NAMES
from llds.monitor.hindsight import Outcome, outcome
from llds.monitor.sources import VOCABULARIES, MetricTable, metrics_of, read_metrics

REWARD = "reward/mean"
SIGNALS_OF = {one.framework: set(one.names.values()) for one in VOCABULARIES if one.framework != "recording"}
EARLY = 8
"""A run that falls before this iteration leaves no time: 5 iterations of warm-up, and the baselines are in the fall."""


@dataclass
class Run:
    """A recorded run, its end and what the detector said."""

    name: str
    rows: Rows
    truth: Outcome
    said: list[Diagnosis]
    cause: str | None

    def first(self, *levels: str) -> int | None:
        """Position at which the detector first said one of the levels."""
        return next((at for at, one in enumerate(self.said) if one.level in levels), None)

    def begins(self, *levels: str) -> int:
        """How often it began to."""
        on = [one.level in levels for one in self.said]
        return sum(now and not before for before, now in zip([False, *on], on, strict=False))

    def named_cause(self, start: int = 0) -> str | None:
        """The cause that it named most often from a position on, at the highest level it reached."""
        said = self.said[start:]
        level = "alarm" if any(one.level == "alarm" for one in said) else "warning"
        causes = Counter(one.cause for one in said if one.level == level)
        return causes.most_common(1)[0][0] if causes else None


@dataclass(frozen=True)
class Recording:
    """A run that can be read: its name, how to, and the cause of its trouble where it is known."""

    name: str
    read: Callable[[], MetricTable]
    cause: str | None


def read_run(recording: Recording, signals: Collection[str]) -> Run | None:
    """A run, with these signals only; None for what is none."""
    try:
        table = recording.read()
    except DataError as error:
        print(f"passed over: {error}", file=sys.stderr)
        return None
    rows = [{name: row[name] for name in signals if name in row} for _, row in table.rows if REWARD in row]
    truth = outcome([row[REWARD] for row in rows])
    return Run(recording.name, rows, truth, diagnose(enumerate(rows)), recording.cause)


def name_of(path: Path) -> str:
    """A run's name: that of its folder, or of its file without endings."""
    return re.sub(r"\.(jsonl|csv)(\.gz)?$", "", path.name)


def find_runs(place: Path) -> list[Recording]:
    """The runs of a study; or the recordings in a folder and those below it, or else the folders of runs in it."""
    if (study := Study.at(place)).table.exists():
        return [
            Recording(name, partial(metrics_of, rows, f"run {name} of {place}"), cause_named(rows[0].get(CAUSE, "")))
            for name, rows in study.read().items()
        ]
    if not place.is_dir():
        sys.exit(f"Expected a study or a folder of runs, got {place}: no such table or folder.")
    if tables := sorted(place.glob("*.csv.xz")):
        sys.exit(f"Expected a study or a folder of runs, got {place} with the studies {', '.join(map(str, tables))}.")
    paths = sorted(place.rglob("*.gz")) or sorted(path for path in place.iterdir() if path.is_dir())
    return [Recording(name_of(path), partial(read_metrics, path), known_cause(path)) for path in paths]


def cause_named(name: str) -> str | None:
    """The cause of this name; None for what is none, such as "healthy"."""
    return name if name in NAMES else None


def known_cause(path: Path) -> str | None:
    """The cause of a run's trouble, if its folder or its configuration tells."""
    if cause := cause_named(path.parent.name):
        return cause
    if path.name.endswith(".jsonl.gz"):
        with gzip.open(path, "rt") as lines:
            config = json.loads(lines.readline()).get("config", {})
        if config.get("rand"):
            return "broken_reward"
        if config.get("mismatch", "none") != "none":
            return "sampler_mismatch"
    return None


def is_tuned(name: str) -> bool:
    """Whether a run is of the half that settings were tuned on."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 2 == 0


def figures(runs: list[Run]) -> dict[str, Any]:
    """Recall, lead, false alarms and warnings."""
    collapsed = [run for run in runs if run.truth.kind == "collapsed"]
    healthy = [run for run in runs if run.truth.kind == "healthy"]
    between = [run for run in runs if run.truth.kind == "between"]
    early = [run for run in collapsed if (run.truth.fall or 0) < EARLY]
    foreseeable = [run for run in collapsed if not run.truth.is_cliff and run not in early]
    iterations = sum(len(run.rows) for run in healthy)
    alarms, warnings = (sum(run.begins(*levels) for run in healthy) for levels in (("alarm",), ("warning", "alarm")))
    return {
        "runs": len(runs),
        "collapsed": len(collapsed),
        "  cliffs": sum(run.truth.is_cliff for run in collapsed),
        f"  fallen before iteration {EARLY}": len(early),
        "  foreseeable": len(foreseeable),
        "recall": seen(collapsed, "deadline"),
        "recall, foreseeable": seen(foreseeable, "deadline"),
        "  alarm before reward is 35% under its peak": seen(foreseeable, "lost"),
        "  alarm before reward is 20% under its peak": seen(foreseeable, "fall"),
        "  median lead of the alarm to 20% under": lead(foreseeable, "alarm"),
        "  median lead of the alarm to 35% under": lead(foreseeable, "alarm", to="lost"),
        "  median lead of the warning to 20% under": lead(foreseeable, "warning", "alarm"),
        "  median lead of the note to 20% under": lead(foreseeable, "note", "warning", "alarm"),
        "healthy": len(healthy),
        "  iterations": iterations,
        "  false alarms": alarms,
        "  false alarms per 2,000 iterations": 2000 * alarms / max(iterations, 1),
        "  warnings per 2,000 iterations": 2000 * warnings / max(iterations, 1),
        "between": len(between),
        "  with an alarm": sum(run.begins("alarm") > 0 for run in between),
    }


def seen(runs: list[Run], until: str) -> float:
    """Share of the runs with an alarm by a moment of their truth."""
    return sum(seen_by(run, getattr(run.truth, until)) for run in runs) / max(len(runs), 1)


def seen_by(run: Run, position: int | None) -> bool:
    """Whether an alarm came by then."""
    alarm = run.first("alarm")
    return alarm is not None and position is not None and alarm <= position


def lead(runs: list[Run], *levels: str, to: str = "fall") -> float | None:
    """Median over runs of the iterations between the level and the fall, as a share of those to the fall."""
    leads = []
    for run in runs:
        goal, at = getattr(run.truth, to), run.first(*levels)
        leads.append((goal - (len(run.rows) if at is None else at)) / goal)
    return median(leads) if leads else None


def recorded_causes(runs: list[Run]) -> dict[str, Counter[str | None]]:
    """What the detector named, by the cause that is known."""
    named: dict[str, Counter[str | None]] = {}
    for run in runs:
        if run.cause is not None:
            named.setdefault(run.cause, Counter())[run.named_cause()] += 1
    return named


def injected_causes(runs: list[Run], signals: Collection[str]) -> dict[str, Counter[str | None]]:
    """What the detector named, by the fault that was put into each healthy run without one, at two moments."""
    named: dict[str, Counter[str | None]] = {}
    sound = [run for run in runs if run.truth.kind == "healthy" and run.cause is None]
    for fault, (_, inject) in FAULTS.items():
        for run in sound:
            for start in (15, 2 * len(run.rows) // 3):
                rows = copy.deepcopy(run.rows)
                inject(rows, start, random.Random(f"{run.name} {start}"))  # noqa: S311
                rows = [{name: row[name] for name in signals if name in row} for row in rows]
                broken = Run(run.name, rows, run.truth, diagnose(enumerate(rows)), None)
                named.setdefault(fault, Counter())[broken.named_cause(start)] += 1
    return named


def alarms_on_noise(spread: float, runs: int = 6, iterations: int = 1000) -> float:
    """Alarms per 2,000 iterations of runs that go nowhere and whose reward scatters by this share of its mean."""
    alarms = 0
    for seed in range(runs):
        noise = random.Random(seed)  # noqa: S311
        rows = [
            {
                REWARD: max(0.0, 0.5 * (1 + spread * noise.gauss(0, 1))),
                "policy/entropy": 0.5 * math.exp(0.05 * noise.gauss(0, 1)),
                "train/grad_norm": math.exp(0.3 * noise.gauss(0, 1)),
            }
            for _ in range(iterations)
        ]
        alarms += len(summarize(diagnose(enumerate(rows))).alarms)
    return 2000 * alarms / (runs * iterations)


def on_made_up_rows(runs: list[Run], signals: Collection[str]) -> dict[str, Any]:
    """What it says of faults put into metrics, and of noise."""
    injected = injected_causes(runs, signals)
    right = sum(counts[FAULTS[fault][0]] for fault, counts in injected.items())
    return {
        "causes of injected faults": injected,
        "right cause, injected": right / max(sum(counts.total() for counts in injected.values()), 1),
        "alarms per 2,000 iterations of noise": {spread: alarms_on_noise(spread) for spread in (0.1, 0.2, 0.3)},
    }


def print_table(runs: list[Run], result: dict[str, Any]) -> None:
    """The figures, for a person."""
    for run in runs:
        truth, alarm, warning = run.truth, run.first("alarm"), run.first("warning", "alarm")
        when = f"fall {truth.fall!s:>4s}  alarm {alarm!s:>4s}  warning {warning!s:>4s}"
        print(f"{run.name:28s} {truth.kind:9s} {when}  {run.named_cause()}{'  (cliff)' if truth.is_cliff else ''}")
    print()
    for name, value in result["figures"].items():
        print(f"{name:56s} {value:.3g}" if isinstance(value, float) else f"{name:56s} {value}")
    for title in ("causes of recorded runs", "causes of injected faults"):
        if title in result:
            print(f"\n{title}")
            for name, counts in result[title].items():
                print(f"  {name:36s} {', '.join(f'{cause} {count}' for cause, count in counts.items())}")
    if "right cause, injected" in result:
        print(f"\nright cause, injected: {result['right cause, injected']:.1%}")
        for spread, alarms in result["alarms per 2,000 iterations of noise"].items():
            print(f"alarms per 2,000 iterations of noise, {spread:.0%} of the mean reward: {alarms:.2g}")


def main() -> None:
    """Evaluate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", type=Path, nargs="+", help="studies, or folders of runs")
    parser.add_argument("--half", choices=("held-out", "tuned", "all"), default="held-out")
    parser.add_argument(
        "--match", type=re.compile, default=re.compile(""), help="only runs whose name has this pattern"
    )
    parser.add_argument(
        "--signals-of", choices=sorted(SIGNALS_OF), default="llds", help="as if this framework had logged"
    )
    parser.add_argument("--recorded-only", action="store_true", help="no faults put into metrics, no runs of noise")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    signals = SIGNALS_OF[options.signals_of]
    found = [recording for place in options.place for recording in find_runs(place)]
    wanted = [
        recording
        for recording in found
        if options.half in ("all", "tuned" if is_tuned(recording.name) else "held-out")
        and options.match.search(recording.name)
    ]
    runs = [run for recording in wanted if (run := read_run(recording, signals)) is not None]
    result: dict[str, Any] = {"figures": figures(runs), "causes of recorded runs": recorded_causes(runs)}
    if not options.recorded_only:
        result |= on_made_up_rows(runs, signals)
    if options.json:
        print(json.dumps(result, default=str, indent=1))
    else:
        print_table(runs, result)


if __name__ == "__main__":
    main()

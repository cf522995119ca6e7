"""Measure the collapse detector on labeled logs of other people's trainings.

    python tools/evaluate_logs.py FOLDER                 # figures for each half of the logs and for all
    python tools/evaluate_logs.py --curve FOLDER         # lead against false alarms, over the detector's strictness
    python tools/evaluate_logs.py --invariance FOLDER    # verdicts of the same log in other units, strides and columns

The folder has the logs and `labels.csv` with the columns file and label (healthy, collapsed, declining, recovered,
length explosion, stagnant, no signal, short, ...). Logs with an even SHA-256 of their name are one half, the others the
other. "Reversed" are the logs of healthy and stagnant trainings from their end to their start: what has learned then
declines, and what has not must not alarm.
"""

import argparse
import csv
import hashlib
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llds.monitor import Diagnosis, diagnose, give_verdict, read_metrics
from llds.monitor.verdict import ENOUGH

REWARD = "reward/mean"
SMOOTH = 5
Rows = list[tuple[int, dict[str, float]]]


@dataclass
class Log:
    """A labeled log and what the detector says of it."""

    name: str
    label: str
    rows: Rows
    said: list[Diagnosis]

    @property
    def is_tuned(self) -> bool:
        """Whether it is of the half on which settings may be tuned."""
        return int(hashlib.sha256(self.name.encode()).hexdigest(), 16) % 2 == 0

    def first(self, *levels: str) -> int | None:
        """Row at which it first said one of the levels."""
        return next((at for at, one in enumerate(self.said) if one.level in levels), None)

    def begins(self, *levels: str) -> int:
        """How often it began to."""
        on = [one.level in levels for one in self.said]
        return sum(now and not before for before, now in zip([False, *on], on, strict=False))

    def causes(self) -> set[str]:
        """All causes but unknown that it stated aloud."""
        loud = (one.cause for one in self.said if one.level in ("warning", "alarm"))
        return {cause for cause in loud if cause not in (None, "unknown")}


def read_logs(folder: Path, strictness: float = 1.0, change: Callable[[Rows], Rows] | None = None) -> list[Log]:
    """All logs of the folder, changed or as they are."""
    logs = []
    with (folder / "labels.csv").open(encoding="utf-8") as file:
        for record in csv.DictReader(file):
            rows = read_metrics(folder / record["file"]).rows
            rows = change(rows) if change else rows
            logs.append(Log(record["file"], record["label"], rows, diagnose(rows, strictness=strictness)))
    return logs


def figures(logs: Sequence[Log]) -> list[str]:
    """One line for each label."""
    lines = []
    for label in sorted({log.label for log in logs}):
        group = [log for log in logs if log.label == label]
        alarmed = [log for log in group if log.first("alarm") is not None]
        rows = sum(len(log.rows) for log in group)
        onsets, warnings = (sum(log.begins(*levels) for log in group) for levels in (("alarm",), ("warning", "alarm")))
        verdicts = Counter(give_verdict(log.rows, log.said).kind for log in group)
        causes = Counter(cause for log in group for cause in log.causes())
        lines.append(
            f"{label:18s} {len(group):3d} logs  alarm in {len(alarmed):2d}  onsets {onsets} in {rows} rows "
            f"({2000 * onsets / max(rows, 1):.2g} per 2,000)  warnings and alarms {warnings}  "
            f"verdicts {dict(verdicts)}  causes stated {dict(causes) or '-'}"
        )
    return lines


def under_peak(log: Log, share: float = 0.2) -> int | None:
    """Row at which the smoothed reward of a collapse has lost a share of the way from its peak to its end, for good."""
    found = [(at, row[REWARD]) for at, (_, row) in enumerate(log.rows) if REWARD in row]
    values, half = [value for _, value in found], SMOOTH // 2
    windows = [values[max(0, at - half) : at + half + 1] for at in range(len(values))]
    smooth = [sum(window) / len(window) for window in windows]
    peak = max(range(len(smooth)), key=smooth.__getitem__)
    line = smooth[peak] - share * (smooth[peak] - smooth[-1])
    last = max((at for at in range(len(smooth)) if smooth[at] >= line), default=peak)
    return found[last + 1][0] if last + 1 < len(found) else None


def lead(logs: Sequence[Log]) -> str:
    """How soon the alarms of collapses came."""
    late, before = [], 0
    for log in (one for one in logs if one.label == "collapsed"):
        alarm, goal = log.first("alarm"), under_peak(log)
        if goal is not None:
            late.append(len(log.rows) if alarm is None else alarm - goal)
            before += alarm is not None and alarm <= goal
    late.sort()
    return (
        f"{before} of {len(late)} before 20% of the fall, median {late[len(late) // 2] if late else '-'} rows after it"
    )


def curve(folder: Path) -> None:
    """Lead against false alarms."""
    for strictness in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5):
        logs = read_logs(folder, strictness)
        groups = {name: [log for log in logs if log.label == name] for name in ("healthy", "stagnant", "collapsed")}
        alarms = {name: sum(log.first("alarm") is not None for log in group) for name, group in groups.items()}
        counts = ", ".join(f"{name} {alarms[name]} of {len(group)}" for name, group in groups.items())
        print(f"strictness {strictness}: alarm in {counts}; {lead(logs)}")


def scaled(factor: float, shift: float) -> Callable[[Rows], Rows]:
    """The rewards in another unit."""
    names = ("reward/lowest", "reward/highest", REWARD)

    def change(rows: Rows) -> Rows:
        return [(at, row | {name: factor * row[name] + shift for name in names if name in row}) for at, row in rows]

    return change


def without(count: int, seed: int) -> Callable[[Rows], Rows]:
    """Without some columns other than the reward."""

    def change(rows: Rows) -> Rows:
        names = sorted({name for _, row in rows for name in row if not name.startswith("reward/")})
        gone = set(random.Random(seed).sample(names, min(count, len(names))))  # noqa: S311
        return [(at, {name: value for name, value in row.items() if name not in gone}) for at, row in rows]

    return change


def every(stride: int, first: int = 0) -> Callable[[Rows], Rows]:
    """Every so many rows."""
    return lambda rows: rows[first::stride]


def invariance(folder: Path) -> None:
    """Of how many logs the verdict changes, for each half."""
    plain = {log.name: log for log in read_logs(folder)}
    changes: dict[str, Callable[[Rows], Rows]] = {
        "reward * 7 - 3": scaled(7, -3),
        "reward * 0.01 + 100": scaled(0.01, 100),
        "without 3 columns": without(3, 0),
        "with the reward alone": without(100, 0),
    }
    for stride in (2, 3, 5, 10):
        changes |= {f"every {stride}. row from {first}": every(stride, first) for first in (0, stride // 2)}
    for name, change in changes.items():
        logs = read_logs(folder, change=change)
        levels = [_same(plain[log.name], log) for log in logs]
        print(f"{name}: every level of every row the same in {sum(levels)} of {len(levels)} logs")
        # Fewer rows are less evidence: what has too few for any verdict is left out, and what is unseen should be said
        enough = [log for log in logs if sum(REWARD in row for _, row in log.rows) >= ENOUGH]
        for half, group in halves_of(enough).items():
            print(f"    {half}: of those with {ENOUGH} rows {_alarms(group)}")


def _alarms(logs: Sequence[Log]) -> str:
    """In how many there is an alarm, and what is said of collapses without."""
    groups = {label: [log for log in logs if log.label == label] for label in ("healthy", "stagnant", "collapsed")}
    counts = [
        f"{label} {sum(log.first('alarm') is not None for log in group)} of {len(group)}"
        for label, group in groups.items()
    ]
    unseen = [give_verdict(log.rows, log.said).kind for log in groups["collapsed"] if log.first("alarm") is None]
    return f"an alarm in {', '.join(counts)}; collapses without: {dict(Counter(unseen)) or 'none'}"


def halves_of(logs: Sequence[Log]) -> dict[str, list[Log]]:
    """The half that settings may be tuned on, and the other."""
    return {
        "even half": [log for log in logs if log.is_tuned],
        "odd half": [log for log in logs if not log.is_tuned],
    }


def _same(one: Log, other: Log) -> bool:
    return [said.level for said in one.said] == [said.level for said in other.said]


def main() -> None:
    """Evaluate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with the logs and labels.csv")
    parser.add_argument("--curve", action="store_true", help="lead against false alarms")
    parser.add_argument("--invariance", action="store_true", help="other units, strides, columns")
    options = parser.parse_args()
    if options.curve:
        curve(options.folder)
    elif options.invariance:
        invariance(options.folder)
    else:
        logs = read_logs(options.folder)
        halves = halves_of(logs)
        backwards = read_logs(options.folder, change=lambda rows: list(reversed(rows)))
        halves |= {"all": logs, "reversed": [log for log in backwards if log.label in ("healthy", "stagnant")]}
        for title, group in halves.items():
            print("\n".join([f"\n{title}", *figures(group), lead(group)]))


if __name__ == "__main__":
    main()

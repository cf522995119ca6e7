"""Runs that differ in nothing but their seeds, as one experiment: a mean and its interval over training runs.

The intervals of `llds.evaluation.intervals` are about questions, for one policy. These are about training runs: what
another seed would have given.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist, fmean, stdev
from typing import Any

from llds.evaluation.settings import RunSettings

_ABSENT = object()
_STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Quantiles of a two-sided 95% interval for 1 to 10 degrees of freedom."""


@dataclass(frozen=True)
class SeededRun:
    """A run, with what decides whether it belongs to another one.

    Attributes:
        name: What it is called.
        settings: Of its training.
        conditions: Under which it was measured, by dotted key.
        result: What it came to; equal for runs that are one and the same.
    """

    name: str
    settings: RunSettings
    conditions: Mapping[str, Any]
    result: Hashable


@dataclass
class SeedGroup:
    """Runs of one experiment.

    Attributes:
        members: Numbers of its runs, of those that were given; each was another training.
        repeats: Numbers of runs that are one of the members again: they count once.
        settings: The settings that tell the group from the others, by short name.
    """

    members: list[int]
    repeats: list[int] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SeedMean:
    """A mean over training runs.

    Attributes:
        values: One per run that has the figure, at least one.
        runs: How many runs the group has.
    """

    values: tuple[float, ...]
    runs: int

    @property
    def mean(self) -> float:
        """The mean."""
        return fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """Standard deviation between runs; None for one run."""
        return stdev(self.values) if len(self.values) > 1 else None

    @property
    def half_width(self) -> float | None:
        r"""Half of the 95% interval, by Student's t: :math:`t_{n-1} s / \sqrt{n}`; None for one run."""
        count = len(self.values)
        return None if self.deviation is None else student_t(count - 1) * self.deviation / math.sqrt(count)


def student_t(degrees: int) -> float:
    """The 97.5% quantile of Student's t: from the table, beyond it by its expansion (Abramowitz and Stegun 26.7.5).

    Args:
        degrees: Of freedom, at least 1.
    """
    if degrees <= len(_STUDENT_T):
        return _STUDENT_T[degrees - 1]
    z = NormalDist().inv_cdf(0.975)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / degrees**power for power, term in enumerate(terms, start=1))


def group_by_seed(runs: Sequence[SeededRun]) -> list[SeedGroup]:
    """Group the runs that have the same settings and were measured alike.

    Args:
        runs: In the order in which they were named.

    Returns:
        The groups in the order of their first runs.
    """
    groups: dict[str, SeedGroup] = {}
    for number, run in enumerate(runs):
        group = groups.setdefault(_key(run), SeedGroup([]))
        again = any(runs[member].result == run.result for member in group.members)
        (group.repeats if again else group.members).append(number)
    found = list(groups.values())
    firsts = [runs[group.members[0]] for group in found]
    for group, settings in zip(found, _telling(firsts), strict=True):
        group.settings = settings
    return found


def seed_notes(groups: Sequence[SeedGroup], runs: Sequence[SeededRun]) -> list[str]:
    """What a reader of the means must know of the groups, each in a sentence.

    Args:
        groups: Of the runs.
        runs: All of them.
    """
    return [*_repeats(groups, runs), *_same_seeds(groups, runs), *_measured_otherwise(groups, runs)]


def _repeats(groups: Sequence[SeedGroup], runs: Sequence[SeededRun]) -> list[str]:
    notes = []
    for group in groups:
        for run in (runs[number] for number in group.repeats):
            first = next(runs[one].name for one in group.members if runs[one].result == run.result)
            notes.append(f"{run.name} (seed {run.settings.seed}) came to the very result of {first}: it counts once.")
    return notes


def _same_seeds(groups: Sequence[SeedGroup], runs: Sequence[SeededRun]) -> list[str]:
    notes = []
    for group in groups:
        names: dict[str, list[str]] = {}
        for run in (runs[number] for number in group.members):
            names.setdefault(run.settings.seed, []).append(run.name)
        notes += [
            f"{', '.join(same)} have the same seed ({seed}) and other results: their interval is not one over seeds."
            for seed, same in names.items()
            if len(same) > 1
        ]
    return notes


def _measured_otherwise(groups: Sequence[SeedGroup], runs: Sequence[SeededRun]) -> list[str]:
    notes = []
    firsts: dict[str, SeededRun] = {}
    for run in (runs[group.members[0]] for group in groups):
        first = firsts.setdefault(_in_order(run.settings.values), run)
        keys = [key for key in first.conditions if first.conditions[key] != run.conditions.get(key, _ABSENT)]
        if first is not run and run.settings.values:
            named = ", ".join(keys[:3]) + ", ..." * (len(keys) > 3)
            notes.append(
                f"{run.name} was trained like {first.name}, but not measured like it ({named}): they are not averaged."
            )
    return notes


def _in_order(values: Mapping[str, Any]) -> str:
    return repr(sorted(values.items(), key=repr))


def _key(run: SeededRun) -> str:
    """Text that is the same for the runs of a group."""
    parts = [_in_order(values) for values in (run.settings.values, run.conditions)]
    # Of a run without a configuration nobody knows how it was trained: only itself is like it
    return repr(parts if run.settings.values else [*parts, run.result])


def _telling(firsts: Sequence[SeededRun]) -> list[dict[str, str]]:
    """For each group, the settings that differ between groups: of training, and of measuring where those are equal."""
    configs = [dict(run.settings.values) for run in firsts]
    keys = _differing(configs)
    shown = [{key: _value(config, key) for key in keys} for config in configs]
    if len({repr(one) for one in shown}) < len(shown):
        conditions = [dict(run.conditions) for run in firsts]
        more = _differing(conditions)
        shown = [
            one | {key: _value(values, key) for key in more} for one, values in zip(shown, conditions, strict=True)
        ]
        keys += more
    names = dict(zip(keys, _short_names(keys), strict=True))
    return [{names[key]: value for key, value in one.items()} for one in shown]


def _differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys whose values differ between the configurations that have any."""
    known = [config for config in configs if config]
    return [
        key
        for key in dict.fromkeys(key for config in known for key in config)
        if len({repr(config[key]) for config in known if key in config}) > 1
        or not all(key in config or _is_in_none(config, key) for config in known)
    ]


def _is_in_none(config: Mapping[str, Any], key: str) -> bool:
    """Whether a part that holds the key is left out of a configuration as a whole, so that its column says so."""
    words = key.split(".")
    return any(".".join(words[:count]) in config for count in range(1, len(words)))


def _value(config: Mapping[str, Any], key: str) -> str:
    if key in config:
        return "none" if config[key] is None else str(config[key])
    class_path = config.get(f"{key}.class_path")
    return str(class_path).rpartition(".")[2] if class_path is not None else "-"


def _short_names(keys: Sequence[str]) -> list[str]:
    """The last two words of each key, or as many as tell them apart."""
    words = [[word for word in key.split(".") if word != "init_args"] for key in keys]
    for count in range(2, max(map(len, words), default=2) + 1):
        names = [".".join(one[-count:]) for one in words]
        if len(set(names)) == len(names):
            break
    return names if keys else []

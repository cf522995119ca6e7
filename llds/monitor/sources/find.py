"""Where a run keeps its metrics, and reading them."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from llds.errors import DataError
from llds.monitor.signals import REWARD
from llds.monitor.sources import llds_run, nemo_rl, openrlhf, others, prime_rl, recorded, skyrl, trl, verl
from llds.monitor.sources.readers.files import read_records
from llds.monitor.sources.readers.tensorboard import read_events
from llds.monitor.sources.readers.wandb_file import read_wandb
from llds.monitor.sources.vocabulary import MetricTable, Record, Vocabulary, build_table
from llds.monitor.sources.wandb import plain_names

VOCABULARIES = (
    llds_run.VOCABULARY,
    verl.VOCABULARY,
    trl.VOCABULARY,
    prime_rl.VOCABULARY,
    nemo_rl.VOCABULARY,
    skyrl.VOCABULARY,
    openrlhf.VOCABULARY,
    others.SLIME,
    others.AREAL,
    others.TINKER,
    recorded.VOCABULARY,
)
_ONE_CURVE = {"Wall time", "Step", "Value"}
_EVENTS = "events.out.tfevents.*"
_SEVERAL = ("csv/**/metrics.csv", "version_*/metrics.csv")
_ONE = ("metrics.csv", "metrics.jsonl", "trainer_state.json", "checkpoint-*/trainer_state.json")
_LOOSE = ("*.jsonl", "*.jsonl.gz", "*.csv", "*.csv.gz", "*.tsv", "*.log", "*.out", "*.txt", "*.ipynb", "*.wandb")


def read_metrics(path: str | Path) -> MetricTable:
    """Read the metrics of a run.

    Args:
        path: A metrics file, or the folder of a run of llds, TRL, prime-rl or anything with TensorBoard logs.

    Raises:
        DataError: If there are none, or none of their columns is known.
    """
    place = Path(path)
    if not place.exists():
        raise DataError(f"Expected a metrics file or the folder of a run, got {path}: no such file or folder.")
    sources = _find(place) if place.is_dir() else [place]
    return metrics_of(_read_all(sources), str(sources[0] if len(sources) == 1 else place))


def metrics_of(records: Sequence[Record], source: str) -> MetricTable:
    """The metrics of a run whose records are at hand: the rows of a table, a data frame, a query.

    Args:
        records: One per iteration, or several; values by the names that a framework gives its metrics.
        source: Where they come from, for messages.

    Raises:
        DataError: If they are those of several runs, none of their columns is known, or no row has a number.
    """
    records = [prime_rl.without_agents(record) for record in plain_names(list(records), source)]
    table = build_table(source, records, _choose(records, source))
    if not table.rows:
        raise DataError(f"Expected numbers in {source}, got none: {len(records):,} rows, all of NaN, infinity or text.")
    return table


def _read_all(sources: list[Path]) -> list[Record]:
    """The records of a run's files; of several, some may be empty: a start that was killed, an evaluation."""
    records: list[Record] = []
    for source in sources:
        try:
            records += _read(source)
        except DataError:
            if source == sources[-1] and not records:
                raise
    return records


def _read(source: Path) -> list[Record]:
    if source.match(_EVENTS):
        return read_events(source)
    return read_wandb(source) if source.suffix == ".wandb" else _named_by_file(read_records(source), source)


def _named_by_file(records: list[Record], source: Path) -> list[Record]:
    """Records of TensorBoard's download of one curve, whose name is in that of the file, with ``_`` for ``/``."""
    if set(records[0]) != _ONE_CURVE:
        return records
    tag = re.sub(r"^.*tag-|\.csv(\.gz)?$", "", source.name)
    known = {name.replace("/", "_"): name for one in VOCABULARIES for name in one.names}
    name = known.get(tag) or known.get(tag.removeprefix("train_"), tag)
    return [{"Step": record["Step"], name: record["Value"]} for record in records]


def _find(folder: Path) -> list[Path]:
    """The metrics files of a run's folder, in the order in which they were written."""
    for pattern in _SEVERAL:  # a run that was resumed goes on in another file
        if found := sorted(folder.glob(pattern), key=_number_in_name):
            return found
    for pattern in _ONE:
        if found := sorted(folder.glob(pattern), key=_written):
            return found[-1:]
    if found := sorted(folder.glob(f"**/{_EVENTS}"), key=_number_in_name):
        _check_one_run(found, folder)
        return found
    loose = sorted(path for pattern in _LOOSE for path in folder.glob(pattern))
    if len(loose) == 1:
        return loose
    several = f"{len(loose)} files that may be metrics ({', '.join(path.name for path in loose[:3])}, ...): name one"
    raise DataError(
        f"Expected the metrics of one run in {folder} ({', '.join((*_SEVERAL, *_ONE))} or TensorBoard events), got "
        f"{several if loose else 'none of them'}."
    )


def _check_one_run(events: list[Path], folder: Path) -> None:
    """Refuse event files of several runs; versions of a run, and folders in its own folder, belong to it."""
    homes = {path.parent.parent if path.parent.name.startswith("version_") else path.parent for path in events}
    runs = sorted(str(home) for home in homes if not homes & set(home.parents))
    if len(runs) > 1:
        raise DataError(
            f"Expected the TensorBoard logs of one run in {folder}, got those of {len(runs)}: {', '.join(runs[:3])}. "
            "Name one of them."
        )


def _number_in_name(path: Path) -> tuple[int, str]:
    """``version_10`` comes after ``version_2``; event files carry the time in their name."""
    digits = re.findall(r"\d+", path.parent.name)
    return (int(digits[-1]) if digits else 0, path.name)


def _written(path: Path) -> float:
    return path.stat().st_mtime


def _choose(records: list[Record], source: str) -> Vocabulary:
    """The vocabulary that knows most of the columns."""
    columns = list(dict.fromkeys(name for record in records for name in record))
    known = {vocabulary.framework: len(vocabulary.known(columns)) for vocabulary in VOCABULARIES}
    best = max(VOCABULARIES, key=lambda vocabulary: known[vocabulary.framework])
    if known[best.framework] == 0:
        expected = "; ".join(f"{one.framework}: {', '.join(list(one.names)[:3])}, ..." for one in VOCABULARIES)
        raise DataError(
            f"Expected metrics with names of a known framework in {source} ({expected}), got the columns "
            f"{', '.join(columns[:12])}{', ...' if len(columns) > 12 else ''}."
        )
    return best if known[best.framework] > 1 or _has_reward(best, columns) else replace(best, framework="unknown")


def _has_reward(vocabulary: Vocabulary, columns: list[str]) -> bool:
    return any(vocabulary.signal(column) == REWARD for column in columns)

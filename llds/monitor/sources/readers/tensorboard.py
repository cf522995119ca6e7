"""TensorBoard event files."""

from pathlib import Path

from llds.errors import DataError
from llds.monitor.sources.vocabulary import Record


def read_events(path: Path) -> list[Record]:
    """The scalars of an event file, one record per step.

    Raises:
        DataError: If it holds none.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    records: dict[int, dict[str, float]] = {}
    events = EventAccumulator(str(path), size_guidance={"scalars": 0})
    events.Reload()
    for name in events.Tags()["scalars"]:
        for event in events.Scalars(name):
            records.setdefault(event.step, {})[name] = event.value
    if not records:
        raise DataError(f"Expected scalars in the event file {path}, got none.")
    return [{"step": step, **values} for step, values in sorted(records.items())]

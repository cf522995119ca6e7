"""Watching logs that grow: one line whenever what is said of one changes."""

import time
from collections.abc import Sequence
from datetime import datetime

from llds.cli.commands.diagnose.judged import Diagnosed, read_diagnosed
from llds.cli.plain import say
from llds.errors import DataError


def watch(paths: Sequence[str], warmup: int, seconds: float) -> list[Diagnosed]:
    """Look every so many seconds and tell what changes, until Ctrl-C.

    Args:
        paths: Of the logs; each must be readable once.
        warmup: Of the detector.
        seconds: Between two looks.

    Returns:
        What was last said.

    Raises:
        DataError: If a log cannot be read at the start; later, one that is being written is looked at again.
    """
    found = {path: read_diagnosed(path, warmup) for path in paths}
    told: dict[str, tuple[str, ...]] = {}
    try:
        while True:
            for path, one in found.items():
                if (state := _state(one)) != told.get(path):
                    told[path] = state
                    _tell(one)
            time.sleep(seconds)
            for path in paths:
                found[path] = _again(path, warmup) or found[path]
    except KeyboardInterrupt:
        return list(found.values())


def _state(one: Diagnosed) -> tuple[str, ...]:
    now = one.summary.now
    return one.verdict.kind, str(now.since), str(now.cause), now.phase if one.verdict.kind == "alarm" else ""


def _tell(one: Diagnosed) -> None:
    now, last = one.summary.now, one.table.rows[-1][0]
    loud = one.verdict.kind in ("alarm", "warning")
    words = now.message if loud else one.verdict.words
    say(f"{datetime.now():%H:%M:%S} {one.table.path}, iteration {last}: {words}")


def _again(path: str, warmup: int) -> Diagnosed | None:
    try:
        return read_diagnosed(path, warmup)
    except DataError as error:
        say(f"llds: {error} Looking again.", is_error=True)
        return None

"""Tolerances, written once, and what every test starts from."""

import logging
import os
import re
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Processes as many as cores: several threads in each would wait for each other, three times as long in all.
    os.environ["OMP_NUM_THREADS"] = "1"

# Tests, and the processes that they start, ask no hub but one of their own (tests/hub.py).
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRACKIO_DIR"] = tempfile.mkdtemp(prefix="trackio-")  # read once, when Trackio is imported

_SLOW_ONES = re.compile("slow|nightly")

EXACT = 1e-12
"""Absolute, for float64 results that must agree but for the order of sums."""

HAND = 1e-6
"""Absolute, for results against arithmetic written out in a comment with six digits."""

SINGLE = 1e-5
"""Absolute, for float32 against float64 on numbers of order one."""


@pytest.fixture
def exact() -> float:
    """Tolerance of float64 results that must agree but for the order of sums."""
    return EXACT


@pytest.fixture
def hand() -> float:
    """Tolerance against arithmetic written out in a comment with six digits."""
    return HAND


@pytest.fixture
def single() -> float:
    """Tolerance of float32 against float64 on numbers of order one."""
    return SINGLE


@pytest.fixture(autouse=True)
def interrupts() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, also where the suite runs in the background or Lightning switched it off."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def _talkative() -> None:
    """Lightning speaks as after its import: a command of an earlier test (`llds probe`) may have silenced it."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.INFO)
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("llds") and isinstance(logger, logging.Logger):
            logger.disabled = False  # a server that was set up in this process may have switched others' loggers off


def pytest_configure(config: pytest.Config) -> None:
    """Keep the order of slow files: xdist would begin with those of most tests, and end with a long one alone."""
    if _SLOW_ONES.match(config.getoption("markexpr")):
        config.option.loadscopereorder = False


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One process per core where all unit tests run, at most four; a room or two run in this one.

    A room or two are done before a worker is up. Slow tests wait for processes that they start: one more than there are
    cores, at most three.
    """
    unit = Path(__file__).parent / "unit"
    if not any(unit.is_relative_to(Path(str(one)).absolute()) for one in config.args):
        return 0
    cores = os.cpu_count() or 1
    chosen = config.getoption("markexpr")
    return min(cores, 4) if chosen == "not slow" else min(cores + 1, 3) if _SLOW_ONES.match(chosen) else 0


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out of the quick suite what imports other trainers, which takes longer than most rooms: all is slow."""
    is_quick = config.getoption("markexpr") == "not slow"
    return True if is_quick and collection_path.name in ("test_trl.py", "test_verl.py") else None

"""The time in which at least one of several things is going on, such as requests to a sampler."""

import threading
import time


class BusyTime:
    """A clock that runs while anybody is inside; enter it with ``with``, from any thread or task."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._since = 0.0
        self._past = 0.0

    @property
    def seconds(self) -> float:
        """How long it has run so far."""
        with self._lock:
            return self._past + (time.perf_counter() - self._since if self._inside else 0.0)

    def __enter__(self) -> None:
        """Start it, unless it runs."""
        with self._lock:
            if not self._inside:
                self._since = time.perf_counter()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        """Stop it, unless others are inside."""
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._past += time.perf_counter() - self._since

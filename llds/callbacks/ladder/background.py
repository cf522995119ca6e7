"""Work beside the training: started, watched, never waited for while the run goes on, and never what ends it."""

import threading
from collections.abc import Callable

from llds.strategies import best_effort

_GRACE_S = 5.0
"""What a task may take beyond its time limit, to clean up."""


class Background:
    """Runs tasks in threads of their own; each must end by itself within its time limit.

    Args:
        timeout_s: Time limit of a task, for `close`.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._threads: list[threading.Thread] = []

    def start(self, name: str, task: Callable[[], None]) -> None:
        """Start a task; what it raises becomes a warning."""

        def run() -> None:
            with best_effort(name):
                task()

        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def close(self) -> None:
        """Give the tasks that are under way the time that they may take."""
        for thread in self._threads:
            thread.join(self.timeout_s + _GRACE_S)

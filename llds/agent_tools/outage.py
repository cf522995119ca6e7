"""An outage of the retriever: a server that is started anew is waited for, instead of failing all that ask."""

import logging
import time

_POLL_S = 1.0
_TELL_AFTER_S = 2.0
"""A single answer that was lost is not worth a line."""
_log = logging.getLogger(__name__)


class Outage:
    """How long nothing has answered, and whether to ask again. Of one event loop's thread.

    Args:
        patience_s: Longest time that is waited from the first failure on, in seconds; 0 does not wait.
    """

    def __init__(self, patience_s: float) -> None:
        self.patience_s = patience_s
        self._since: float | None = None
        self._is_told = False

    def wait_s(self, error: Exception) -> float | None:
        """Seconds to wait before the next try; None if patience has ended, for all who ask, until an answer comes.

        Args:
            error: What a try has met.
        """
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        lasted = now - self._since
        if lasted >= self.patience_s:
            return None
        if lasted >= _TELL_AFTER_S and not self._is_told:
            self._is_told = True
            _log.warning(
                "The retriever does not answer; searches wait for it up to %g s (`retrieval.patience_s`), and no "
                "longer than the tries of `rollout.tool_calls` take. %s",
                self.patience_s,
                error,
            )
        return min(_POLL_S, self.patience_s - lasted)

    def ended(self) -> None:
        """Note an answer."""
        if self._since is not None and self._is_told:
            _log.warning("The retriever answers again, after %.0f s.", time.monotonic() - self._since)
        self._since, self._is_told = None, False

"""One asyncio loop in a thread of its own, for the whole life of a collector.

A loop of its own thread runs in notebooks too, where the main thread's loop is taken; lets Ctrl-C return at once; keeps
the connections of asynchronous tools alive between iterations; and never waits for a tool's thread that hangs.
"""

import asyncio
import logging
import math
import queue
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from types import FrameType
from typing import Any, ParamSpec, TypeVar

from llds.errors import BlockedError
from llds.samplers.futures import fulfil

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")

_log = logging.getLogger(__name__)

_LOOK_S = 1.0
"""Time between two looks at whether the loop still reacts, in seconds."""

_UNWIND_S = 5.0
"""Longest time that cancelled coroutines get to end, in seconds."""


class BackgroundLoop:
    """Runs coroutines from ordinary code.

    Args:
        blocked_s: Longest time, in seconds, that something on the loop may keep everything else from going on.
        doing: Says in words what the loop's thread does, from its innermost frame.
    """

    def __init__(
        self, blocked_s: float = math.inf, doing: Callable[[FrameType | None], str] = lambda frame: str(frame)
    ) -> None:
        self._blocked_s = blocked_s
        self._doing = doing
        self._is_closing = False
        self._look_s = min(_LOOK_S, blocked_s / 4)
        self._unanswered = 0  # looks, not time: a process that was stopped and goes on has not been blocked
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(_DaemonThreads())
        self._thread = threading.Thread(target=self._serve, name="llds-rollout", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        """Run the loop until it is closed, whatever stops it: only its owner may."""
        while not self._is_closing:
            try:
                self._loop.run_forever()
            except BaseException as error:  # SystemExit of a callback would end the thread, and all would wait for ever
                _log.warning("The event loop of the rollout goes on after %s: %s", type(error).__name__, error)

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run to the end and return the result; like `submit`, then `wait`."""
        return self.wait(self.submit(coroutine))

    def wait(self, future: "Future[Result]") -> Result:
        """Wait for what `submit` began and return its result.

        An error or an interrupt first cancels whatever else runs on the loop and waits until it has ended, so that
        nothing of this run reaches into the next.

        Raises:
            BlockedError: If something blocks the loop for too long.
        """
        self._unanswered = 0
        try:
            while not wait((future,), timeout=self._look_s).done:
                self._look()
            return future.result()
        except BaseException:
            self.cancel_all()
            raise

    def submit(self, coroutine: Coroutine[Any, Any, Result]) -> "Future[Result]":
        """Begin to run and return the future of the result; cancelling it cancels the run."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def _look(self) -> None:
        """Ask the loop for a sign of life, and count those that did not come."""
        blocked_s = self._unanswered * self._look_s
        if blocked_s > self._blocked_s:
            doing = self._doing(sys._current_frames().get(self._thread.ident or 0))
            raise BlockedError(
                f"Expected every call to let others go on, got {blocked_s:.3g} s in {doing} "
                "(`rollout.tool_calls.blocked_s`), in which no trajectory could go on. Put what blocks into "
                "`asyncio.to_thread`; with `--ckpt_path last` the run then repeats this iteration."
            )
        self._unanswered += 1
        self._loop.call_soon_threadsafe(self._react)

    def _react(self) -> None:
        self._unanswered = 0

    def close(self) -> None:
        """Cancel what runs and stop the loop. A second call does nothing."""
        self._is_closing = True
        if not self._loop.is_closed() and self.cancel_all():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def cancel_all(self) -> bool:
        """Cancel what runs; returns whether the loop still reacts (not so when a tool blocks its thread)."""
        try:
            asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop).result(timeout=2 * _UNWIND_S)
        except TimeoutError:
            return False
        return True


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=_UNWIND_S)


class _DaemonThreads(ThreadPoolExecutor):  # a loop takes no other kind of executor
    """A thread for each call of ``asyncio.to_thread`` that is under way, kept for later calls.

    A pool of a fixed size would let as many tools run at once as it has threads, and stop when that many hang; the
    standard one's threads would hold up the exit. To start a thread for each call would take three times the time.
    """

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)  # threads that no call in the queue is meant for

    def submit(
        self, fn: Callable[Arguments, Result], /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> "Future[Result]":
        """Do the call in a thread that is idle, or in a new one."""
        future: Future[Result] = Future()
        self._work.put((future, partial(fn, *args, **kwargs)))
        if not self._idle.acquire(blocking=False):
            threading.Thread(target=self._serve, name="llds-tool", daemon=True).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the threads end; waits for none."""
        self._work.put(None)

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            future, call = work
            if not fulfil(future, partial(self._idle_after, call)):
                self._idle.release()
            del work, future, call  # they hold the call's arguments and result
        self._work.put(None)  # for the next thread

    def _idle_after(self, call: Callable[[], Result]) -> Result:
        """Do a call; whoever learns of its result finds the thread idle, and makes no other."""
        try:
            return call()
        finally:
            self._idle.release()

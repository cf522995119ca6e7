"""An end for what may hang: a rank or a server that dies can leave others in a call that no exception reaches.

A collective operation of NCCL or gloo waits inside C++, where Python cannot interrupt it. So the whole process ends,
with the reason; its launcher then ends the others, and each has the same deadline of its own.
"""

import math
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ends_within(deadline_s: float, doing: str, key: str) -> Iterator[None]:
    """End this process if the block takes longer.

    Args:
        deadline_s: Longest time, in seconds; infinity sets none.
        doing: What the block does, for the message.
        key: The configuration key of the deadline.
    """
    if math.isinf(deadline_s):
        yield
        return
    waiting = threading.get_ident()
    timer = threading.Timer(deadline_s, _end, (waiting, deadline_s, doing, key))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end(waiting: int, deadline_s: float, doing: str, key: str) -> None:
    frame = sys._current_frames().get(waiting)
    where = "" if frame is None else f" (it waits in {frame.f_code.co_name}, {frame.f_code.co_filename})"
    print(
        f"Expected {doing} to end within {deadline_s:g} s (`{key}`), got no end{where}: a server or another process "
        "has died or hangs; the logs in the run's folder may say which. This process ends. Resume with `--ckpt_path "
        "last`.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)

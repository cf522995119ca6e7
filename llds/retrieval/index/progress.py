"""The progress bar of a build: passages done, rate, time left; in a file a line now and then."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tqdm import tqdm

from llds.retrieval.index.build import Progress

_EVERY_S = 0.5
_IN_A_FILE_EVERY_S = 30.0


@contextmanager
def progress_bar(rows: int) -> Iterator[Progress]:
    """Show a bar on standard error while a build lasts; none for a build that is over sooner.

    Args:
        rows: Number of passages in all.

    Yields:
        Takes the number of passages that are in. The first of them were there before: rate and time left do not count
        them.
    """
    every = _EVERY_S if sys.stderr.isatty() else _IN_A_FILE_EVERY_S
    bars: list[tqdm] = []
    with ExitStack() as stack:

        def advance(done: int) -> None:
            if not bars:
                bar = tqdm(initial=done, total=rows, unit=" passages", desc="Index", mininterval=every, delay=every)
                bars.append(stack.enter_context(bar))
            bars[0].update(done - bars[0].n)

        yield advance

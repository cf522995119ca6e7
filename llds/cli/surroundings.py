"""What commands that build classes of a configuration need around them: the user's own classes, word of indices."""

import logging
import os
import sys
from collections.abc import Callable


def find_own_classes() -> None:
    """Let classes of files in the working directory be named; ``python -m llds`` finds them anyway, ``llds`` not."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def tell_of_indices(is_first: Callable[[], bool] = lambda: True) -> None:
    """Let retrievers say what memory and disk they need, before they take it, and how a build goes.

    Args:
        is_first: Whether this process is the one that speaks; the others only warn.
    """
    log = logging.getLogger("llds.retrieval")
    if not log.handlers:
        log.addHandler(logging.StreamHandler())
        log.handlers[0].addFilter(lambda record: is_first() or record.levelno > logging.INFO)
    log.setLevel(logging.INFO)

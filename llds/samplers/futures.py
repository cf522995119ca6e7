"""Work that one thread does for another: its outcome, whatever it is, goes to who waits for it."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

from llds.errors import SamplerError

Result = TypeVar("Result")


def fulfil(future: "Future[Result]", work: Callable[[], Result]) -> bool:
    """Do the work and give its result or its error to the future; nothing is done for one that was cancelled.

    Args:
        future: Somebody waits for it.
        work: What is to be done.

    Returns:
        Whether anything was done.
    """
    if not future.set_running_or_notify_cancel():
        return False
    try:
        result = work()
    except BaseException as error:  # whatever it is belongs to who waits, who would wait for ever
        future.set_exception(error)
    else:
        future.set_result(result)
    return True


@contextmanager
def errors_of_engine(what: str) -> Iterator[None]:
    """Turn whatever stops an engine into the error of the requests that wait for it.

    Args:
        what: What failed, for the message.

    Raises:
        SamplerError: In place of any other error.
    """
    try:
        yield
    except SamplerError:
        raise
    except Exception as error:  # engines raise torch's errors, CUDA's and their own, which have no class in common
        raise SamplerError(f"{what}: {type(error).__name__}: {error}") from error

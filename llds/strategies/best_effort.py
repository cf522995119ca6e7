"""Work beside what matters, which must never be what ends it: reports, records, messages."""

from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch.utilities import rank_zero_warn


@contextmanager
def best_effort(what: str, but: str = "The run goes on") -> Iterator[None]:
    """Turn any error into a warning.

    Args:
        what: What there is not, or what failed, for the warning.
        but: What that leaves as it is, for the same.
    """
    try:
        yield
    except Exception as error:  # a full disk, a plotting library, a webhook: whatever it is, the rest matters more
        rank_zero_warn(f"{what}: {type(error).__name__}: {error}. {but}.")

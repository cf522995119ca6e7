"""The ranks of a run: who am I, what have the others got, has anything failed anywhere.

Works without a process group too: then there is one rank. Everything here is collective: every rank must call. Objects
travel by a gloo group of their own: a rank that waits for others sleeps on a socket, where NCCL would spin on a GPU
that a sampler may share, and copy every message through its memory.
"""

import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor

from llds.errors import LLDSError, RankError

Value = TypeVar("Value")


class _ObjectGroup:
    """The group of all ranks by which objects travel; made when it is first asked for, once for each process group.

    Attributes:
        timeout: Longest time that ranks wait for each other; None is torch's 30 minutes.
    """

    def __init__(self) -> None:
        self.timeout: timedelta | None = None
        self._of: Any = None
        self._group: Any = None

    def get(self) -> Any:
        """The group; the first call is collective."""
        if self._of is not dist.group.WORLD:
            self._of, self._group = dist.group.WORLD, dist.new_group(backend="gloo", timeout=self.timeout)
        return self._group


_objects = _ObjectGroup()


def exchange_within(timeout: timedelta) -> None:
    """Set the longest time that ranks wait for each other's objects; before the first exchange."""
    _objects.timeout = timeout


def world_size() -> int:
    """Number of ranks."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this rank, 0 to `world_size` - 1; rank 0 writes files and talks."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def gather(value: Value) -> list[Value]:
    """The value of every rank, in their order, on every rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, group=_objects.get())
    return values


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of all ranks' tensors, on every rank; of one shape and dtype."""
    if world_size() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total


def together(action: Callable[[], Value]) -> list[Value]:
    """Do something on every rank and return all results; where it fails on one, it fails on all, and none waits.

    Args:
        action: Must not be collective itself.

    Raises:
        Exception: The error itself, where there is one rank.
        RankError: On every rank, with the error of the first that failed.
    """
    if world_size() == 1:
        return [action()]
    result: Any = None
    failure, error = None, None
    try:
        result = action()
    except Exception as raised:  # whatever it is, the other ranks must learn of it before they wait for this one
        failure, error = _describe(raised), raised
    outcomes = gather((result, failure))
    failures = [(number, found) for number, (_, found) in enumerate(outcomes) if found is not None]
    if failures:
        everywhere = len(failures) == len(outcomes) and len({found for _, found in failures}) == 1
        number, found = failures[0]
        raise RankError(found if everywhere else f"Rank {number} failed, and all stop with it. {found}") from error
    return [value for value, _ in outcomes]


def is_lost_rank(error: RuntimeError) -> bool:
    """Whether an error says that another rank is gone or does not answer (NCCL's have a class, gloo's only a text)."""
    return isinstance(error, dist.DistError) or "gloo/" in str(error) or "Connection closed by peer" in str(error)


def _describe(error: Exception) -> str:
    """The message of an error that is meant for the user; the traceback of one that is not."""
    return str(error) if isinstance(error, LLDSError) else "".join(traceback.format_exception(error))

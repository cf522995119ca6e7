"""What a weight update must achieve, whatever carries it: every tensor arrives whole and is loaded.

The trainer fingerprints each tensor as it leaves, the engine's worker as it is loaded; `check_receipt` compares. The
canary (`llds.samplers.canary`) then asks whether the engine computes with them.
"""

import mmap
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from llds.dtypes import DTYPES
from llds.errors import WeightUpdateError
from llds.samplers.vllm.fingerprint import as_bytes, fingerprint

Receipt = Mapping[str, Any]
"""A worker's acknowledgment: ``version``, ``tensors`` (name to fingerprint) and ``unloaded`` (parameters left out)."""

_BUFFER_BYTES = 64 * 2**20


@dataclass
class SentWeights:
    """A stream of weights on its way out, and what it held.

    Attributes:
        dtype: Data type of the engine's weights; tensors of another floating type are cast.
        fingerprints: Of what left, by name.
    """

    dtype: str
    fingerprints: dict[str, str] = field(default_factory=dict)

    def stream(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Pass the weights on in the engine's data type, one at a time, fingerprinted."""
        for name, tensor in weights:
            value = tensor.detach()
            value = (value.to(DTYPES[self.dtype]) if value.is_floating_point() else value).contiguous()
            self.fingerprints[name] = fingerprint(value)
            yield name, value


def batches(weights: Iterable[tuple[str, Tensor]]) -> Iterator[list[tuple[str, Tensor]]]:
    """Copies of the weights, a few at a time: at most 64 MiB, or a single larger tensor.

    An engine loads a batch faster than its tensors one by one, for which vLLM walks through the whole model each time.
    """
    batch: list[tuple[str, Tensor]] = []
    size = 0
    for name, tensor in weights:
        if batch and size + tensor.nbytes > _BUFFER_BYTES:
            yield batch
            batch, size = [], 0
        batch.append((name, tensor.clone()))  # the trainer's own is valid until the next is asked for
        size += tensor.nbytes
    if batch:
        yield batch


def check_receipt(engine: str, sent: SentWeights, version: int, receipt: Receipt) -> None:
    """Raise unless the engine loaded what was sent, all of it, under this version.

    Args:
        engine: Which engine, for the message.
        sent: What left the trainer.
        version: Its version.
        receipt: What the worker says.

    Raises:
        WeightUpdateError: Naming what differs.
    """
    arrived: Mapping[str, str] = receipt["tensors"]
    missing = sorted(sent.fingerprints.keys() - arrived.keys())
    changed = sorted(name for name, value in arrived.items() if sent.fingerprints.get(name) != value)
    faults = [
        f"{len(missing)} tensors did not arrive ({missing[0]})" if missing else "",
        f"{len(changed)} tensors differ from those that were sent ({changed[0]})" if changed else "",
        f"no tensor came for {len(receipt['unloaded'])} of its parameters ({receipt['unloaded'][0]})"
        if receipt["unloaded"]
        else "",
        f"it holds version {receipt['version']}" if receipt["version"] != version else "",
    ]
    found = "; ".join(fault for fault in faults if fault)
    if found:
        raise WeightUpdateError(
            f"Expected {engine} to hold all weights of version {version}, got: {found}. Its actions would not be the "
            "policy's. Resume with `--ckpt_path last`; if it happens again, report it with this message."
        )


def check_cache_reset(engine: str, is_reset: bool) -> None:
    """Raise unless the engine forgot what its old weights computed.

    Args:
        engine: Which engine, for the message.
        is_reset: What it says.

    Raises:
        WeightUpdateError: If it did not.
    """
    if not is_reset:
        raise WeightUpdateError(
            f"Expected {engine} to forget its prefix cache after a weight update, got a refusal: it still computes "
            "actions of an earlier iteration. Resume with `--ckpt_path last`."
        )


class SharedBuffer:
    """Memory that processes of this machine can read, without a name that could be left behind.

    Grows to the largest tensor, but never holds more than that or 64 MiB.

    Attributes:
        path: Where another process of the same user opens it.
    """

    def __init__(self) -> None:
        self._descriptor = os.memfd_create("llds-weights")
        self.path = f"/proc/{os.getpid()}/fd/{self._descriptor}"
        self._map: mmap.mmap | None = None

    def chunks(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[list[list[Any]]]:
        """Copy tensors in until the buffer is full, time after time.

        Yields:
            Name, dtype, shape and offset of each tensor that the buffer holds now; the reader must be done with them
            before the next are asked for.
        """
        entries: list[list[Any]] = []
        used = 0
        for name, tensor in weights:
            size = tensor.numel() * tensor.element_size()
            if entries and used + size > _BUFFER_BYTES:
                yield entries
                entries, used = [], 0
            if size:
                target = torch.frombuffer(self._space(used + size), dtype=torch.uint8, count=size, offset=used)
                target.copy_(as_bytes(tensor))
            entries.append([name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape), used])
            used += -(-size // 64) * 64  # aligned for every dtype
        if entries:
            yield entries

    def _space(self, size: int) -> mmap.mmap:
        if self._map is None or len(self._map) < size:
            size = max(size, _BUFFER_BYTES)
            os.ftruncate(self._descriptor, size)
            self._map = mmap.mmap(self._descriptor, size)  # an older, smaller one goes when its last tensor does
        return self._map

    def close(self) -> None:
        """Give the memory back. A second call does nothing."""
        if self._descriptor >= 0:
            self._map = None
            os.close(self._descriptor)
            self._descriptor = -1


def read_chunk(path: str, entries: Iterable[list[Any]]) -> Iterator[tuple[str, Tensor]]:
    """Read the tensors of a `SharedBuffer` in another process; copies, because the buffer is about to be overwritten.

    Args:
        path: Of the buffer.
        entries: As `SharedBuffer.chunks` yields them.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as memory:
        view = memoryview(memory)
        for name, dtype, shape, offset in entries:
            value = torch.empty(shape, dtype=DTYPES[dtype])
            size = value.numel() * value.element_size()
            if size:
                value.view(-1).view(torch.uint8).copy_(
                    torch.frombuffer(view, dtype=torch.uint8, count=size, offset=offset)
                )
            yield name, value
        view.release()

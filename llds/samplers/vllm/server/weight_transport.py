"""How weights travel to servers: through this machine's memory, or by vLLM's own transfer between GPUs.

Either way the workers note what arrives (`llds.samplers.vllm.engine.WeightReceiver`), and the receipts are compared.
"""

import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any, Protocol

from torch import Tensor

from llds.errors import SamplerError
from llds.samplers.base import SampledPolicy
from llds.samplers.event_loop import BackgroundLoop
from llds.samplers.vllm.engine import DeviceTransfer
from llds.samplers.vllm.server.client import ServerClient
from llds.samplers.vllm.server.pool import ServerPool
from llds.samplers.vllm.weight_update import SharedBuffer

Weights = Iterator[tuple[str, Tensor]]


class WeightTransport(Protocol):
    """Carries one stream of weights to all servers of a pool."""

    brings_its_own: str
    """Not empty if the workers load by vLLM's own transfer engine."""

    def send(self, weights: Weights) -> None:
        """Send the weights; returns when all servers have loaded them."""

    def close(self) -> None:
        """Free what it holds."""


class SharedMemoryTransport:
    """Servers on this machine read the tensors from one buffer, which never holds more than a few.

    Args:
        loop: Runs the requests.
        pool: The servers.
    """

    brings_its_own = ""

    def __init__(self, loop: BackgroundLoop, pool: ServerPool) -> None:
        self._loop, self._pool = loop, pool
        self._buffer = SharedBuffer()

    def send(self, weights: Weights) -> None:
        """Fill the buffer, let all servers load from it, and again."""
        path = self._buffer.path
        for entries in self._buffer.chunks(weights):
            self._loop.run(self._pool.each(_load_from(path, json.dumps(entries))))

    def close(self) -> None:
        """Give the memory back."""
        self._buffer.close()


def _load_from(path: str, entries: str) -> Callable[[ServerClient], Awaitable[Any]]:
    return lambda server: server.call("llds_load_chunk", path, entries)


class DeviceTransport:
    """Servers on GPUs take the tensors by NCCL (devices of their own) or CUDA IPC (devices shared with the trainer).

    Args:
        loop: Runs the requests.
        pool: The servers.
        backend: vLLM's name of it.
        policy: What is trained.
        dtype: Data type of the engines' weights.
    """

    def __init__(self, loop: BackgroundLoop, pool: ServerPool, backend: str, policy: SampledPolicy, dtype: str) -> None:
        self.brings_its_own = backend
        self._loop, self._pool = loop, pool
        self._arguments = (backend, policy.folder, dtype, policy.rank)
        self._is_sender = policy.rank == 0
        self._sizes: dict[str, int] = {}
        self._transfer: DeviceTransfer | None = None

    def send(self, weights: Weights) -> None:
        """Let vLLM's transfer engine send the weights; every rank calls. The first call connects it."""
        if self._transfer is None:
            self.count_devices()
            self._transfer = DeviceTransfer(*self._arguments, client=self, workers=sum(self._sizes.values()))
        self._transfer.send(weights)

    def count_devices(self) -> None:
        """Ask each server on how many GPUs it computes."""
        sizes = self._loop.run(self._pool.each(lambda server: server.world_size()))
        self._sizes = {server.url: size for server, size in sizes.items()}

    def close(self) -> None:
        """Leave the group of devices, and let the servers leave it: those by URL outlive the run."""
        if self._transfer is None:
            return
        if self._is_sender:
            with suppress(SamplerError):  # whoever does not answer has left
                self._post("shutdown_weight_transfer_engine", lambda url: {})
        self._transfer.close()
        self._transfer = None

    # What vLLM's transfer engine asks of whoever speaks to the servers

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Connect each server's workers; theirs are consecutive numbers in one group."""
        offsets, first = {}, int(init_info.get("rank_offset", 0))
        for url, size in self._sizes.items():
            offsets[url], first = first, first + size
        self._post(
            "init_weight_transfer_engine",
            lambda url: {
                "init_info": init_info | ({"rank_offset": offsets[url]} if "rank_offset" in init_info else {})
            },
        )

    def start_weight_update(self) -> None:
        """Begin."""
        self._post("start_weight_update", lambda url: {})

    def update_weights(self, update_info: dict[str, Any] | list[dict[str, Any]]) -> None:
        """Announce what comes; returns when it has come."""
        body = {"update_info": DeviceTransfer.json_safe(update_info)}
        self._post("update_weights", lambda url: body)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """End."""
        self._post("finish_weight_update", lambda url: {})

    def _post(self, path: str, body: Any) -> None:
        self._loop.run(self._pool.each(lambda server: server.post(path, body(server.url), self._pool.update_s)))

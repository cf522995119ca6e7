"""vLLM as servers: processes of their own that the sampler starts, or others that it is told of.

Rank 0 starts servers and sends weights; every rank sends requests.

Left out on purpose: sharing the load (`server_pool`), HTTP (`server_client`), how weights travel (`weight_transport`).
"""

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import torch
from torch import Tensor

from llds.errors import ConfigurationError, SamplerError
from llds.samplers.base import SampledPolicy, Sampler, SampleRequest
from llds.samplers.event_loop import BackgroundLoop
from llds.samplers.vllm.engine import check_available
from llds.samplers.vllm.server.checks import check_placement, check_server
from llds.samplers.vllm.server.client import ServerClient
from llds.samplers.vllm.server.pool import ServerPool
from llds.samplers.vllm.server.process import OwnServers
from llds.samplers.vllm.server.serve import Transfer, server_command, server_environment
from llds.samplers.vllm.server.weight_transport import DeviceTransport, SharedMemoryTransport, WeightTransport
from llds.samplers.vllm.settings import VLLMEngine
from llds.samplers.vllm.weight_update import SentWeights, check_cache_reset, check_receipt
from llds.strategies import gather, rank
from llds.types import Completion

Result = TypeVar("Result")

_SHARE_OF_DEADLINE = 0.9
"""Of an update's deadline: time that one request of it gets, so that a server that hangs is lost before all end."""


class VLLMServerSampler(Sampler):
    """Samples with vLLM servers, which share the load.

    A server that fails leaves its actions to the others, and is started anew (or asked for again) before the next
    update of the weights. Log-probabilities are those of the sampling law; greedy actions carry those of temperature 1.

    Args:
        urls: Addresses of servers that run already, such as http://10.0.0.2:8000; empty: the sampler starts its own.
        servers: Number of servers to start on this machine.
        engine: How they are set up; of servers at `urls` only `dtype` and `head_dtype` are read.
        transfer: How weights reach them: through this machine's memory, by NCCL between GPUs, or by CUDA IPC to GPUs
            that they share with the trainer.
        devices: GPUs of the servers, by number, dealt out in order; empty: all that this process sees, which is for
            servers on CPUs and a single server.
        sleep: Whether servers give their GPU memory back while the trainer updates the policy.
        deadline_s: Longest time that one action may take, in seconds, after which its server counts as lost.
        start_deadline_s: Longest time that a server may take to start, in seconds.
        update_deadline_s: Longest time that an update of the weights may take, in seconds. A server that does not
            answer is lost before it is over; a process that hangs in a transfer between GPUs then ends.

    Raises:
        ConfigurationError: If a value is out of its range; from `prepare`: if vLLM is not installed, or a server is not
            there or not one for this policy.
    """

    can_resample = True
    takes_saved_layout = True

    def __init__(
        self,
        urls: Sequence[str] = (),
        servers: int = 1,
        engine: VLLMEngine = VLLMEngine(),
        transfer: Transfer = "shared_memory",
        devices: Sequence[int] = (),
        sleep: bool = False,
        deadline_s: float = 300.0,
        start_deadline_s: float = 600.0,
        update_deadline_s: float = 300.0,
    ) -> None:
        if servers < 1 or min(deadline_s, start_deadline_s, update_deadline_s) <= 0:
            raise ConfigurationError(
                "Expected `rollout.sampler` to have servers >= 1 and deadlines above 0, got "
                f"{servers}, {deadline_s}, {start_deadline_s} and {update_deadline_s}."
            )
        if devices and len(devices) != servers * engine.tensor_parallel_size:
            raise ConfigurationError(
                "Expected as many `rollout.sampler.devices` as servers x engine.tensor_parallel_size = "
                f"{servers * engine.tensor_parallel_size}, got {list(devices)}."
            )
        self.urls = [url.rstrip("/") for url in urls]
        self.servers = servers
        self.settings = engine
        self.transfer: Transfer = transfer
        self.devices = list(devices)
        self.sleep = sleep
        self.can_overlap = not sleep
        self.deadline_s = deadline_s
        self.start_deadline_s = start_deadline_s
        self.update_deadline_s = update_deadline_s
        self.own: OwnServers | None = None
        self._pool = ServerPool(_SHARE_OF_DEADLINE * update_deadline_s)
        self._loop: BackgroundLoop | None = None
        self._transport: WeightTransport | None = None
        self._policy: SampledPolicy | None = None

    # Set-up

    def prepare(self, policy: SampledPolicy) -> None:
        """Check the settings, and the servers that should run already."""
        self.settings.check(policy)
        self._policy = policy
        self.engine_dtype = self.settings.dtype_for(policy)
        if not self.urls and policy.rank == 0:
            check_available()
            self.settings.check_devices(policy)
            check_placement(self.devices, self.servers, self.transfer, policy)
        elif self.urls:
            try:
                self._run(self._check())
            except BaseException:
                self.close()
                raise

    def make_room(self) -> None:
        """Give back what the allocators of all ranks hold of GPUs that servers wake up on, or are started anew."""
        if self.sleep or self.transfer == "ipc":
            torch.cuda.empty_cache()
            gather(None)

    def start(self) -> list[str]:
        """Start servers that are missing, or look which of those told of are there."""
        if self._transport is not None and self._pool.lost:  # devices that form a group cannot lose one of it
            self._transport.close()
            self._transport = None
        if self.urls:
            return self._run(self._reachable())
        if self.own is None:
            self.own = self._own_servers()
        return self.own.start(self._pool.lost)

    def join(self, engines: list[str]) -> None:
        """Use these servers."""
        if {server.url for server in self._pool.alive} != set(engines):
            self._pool.join(engines)

    def close(self) -> None:
        """End the servers that the sampler started, and all connections."""
        if self.own is not None:
            self.own.close()
            self.own = None
        if self._transport is not None:
            self._transport.close()
            self._transport = None
        if self._loop is not None:
            self._loop.run(self._pool.connections.close())
            self._loop.close()
            self._loop = None

    @property
    def _known(self) -> SampledPolicy:
        if self._policy is None:
            raise ConfigurationError("Expected a policy before requests, got none. Call prepare() first.")
        return self._policy

    def _background(self) -> BackgroundLoop:
        if self._loop is None:
            self._loop = BackgroundLoop()
        return self._loop

    def _run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        return self._background().run(coroutine)

    async def _check(self) -> None:
        for url in self.urls:
            server = ServerClient(url, self._pool.connections)
            shares_memory = self.transfer == "shared_memory"
            await check_server(server, self._known, self.engine_dtype, self.settings.head_dtype, shares_memory)

    async def _reachable(self) -> list[str]:
        servers = [ServerClient(url, self._pool.connections) for url in self.urls]
        answers = await asyncio.gather(*(server.describe() for server in servers), return_exceptions=True)
        found = [url for url, answer in zip(self.urls, answers, strict=True) if not isinstance(answer, BaseException)]
        if not found:
            raise SamplerError(f"Expected a vLLM server at `rollout.sampler.urls` {self.urls}, got {answers[0]}.")
        return found

    def _own_servers(self) -> OwnServers:
        arguments, policy = self.settings.arguments(self._known), self._known
        arguments |= {"enable_sleep_mode": True} if self.sleep else {}
        width = self.settings.tensor_parallel_size
        environments = [server_environment(self.devices[width * n : width * (n + 1)]) for n in range(self.servers)]
        return OwnServers(
            lambda port: server_command(str(policy.folder), "127.0.0.1", port, self.transfer, arguments),
            environments,
            policy.logs,
            self.start_deadline_s,
        )

    # Weights

    def update_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Send the weights to all servers, and compare what they say they loaded."""
        sent = SentWeights(self.engine_dtype)
        transport = self._carrier()
        if rank() == 0:
            self._run(self._begin(transport.brings_its_own))
        if rank() == 0 or transport.brings_its_own:
            transport.send(sent.stream(weights))
        else:
            for _ in weights:
                pass
        if self.sleep:  # what was gathered on the way
            torch.cuda.empty_cache()
        if rank() == 0:
            self._run(self._end(sent, version))
        self.policy_version = version

    async def _begin(self, brings_its_own: str) -> None:
        if self.sleep:
            await self._pool.each(lambda server: server.post("wake_up?tags=weights", {}, self._pool.update_s))
        await self._pool.each(lambda server: server.begin_update(brings_its_own))

    async def _end(self, sent: SentWeights, version: int) -> None:
        if self.sleep:
            await self._pool.each(lambda server: server.post("wake_up?tags=kv_cache", {}, self._pool.update_s))
        answers = await self._pool.each(lambda server: server.end_update(version))
        for server, (receipts, is_reset) in answers.items():
            for receipt in receipts:  # of each GPU that shares the model
                check_receipt(server.name, sent, version, receipt)
            check_cache_reset(server.name, is_reset)

    def _carrier(self) -> WeightTransport:
        if self._transport is None:
            loop = self._background()
            self._transport = (
                SharedMemoryTransport(loop, self._pool)
                if self.transfer == "shared_memory"
                else DeviceTransport(loop, self._pool, self.transfer, self._known, self.engine_dtype)
            )
        return self._transport

    # Requests

    async def sample(self, request: SampleRequest) -> Completion:
        """Sample on the trajectory's server."""
        # Salted with the version: a cache that outlived an update could not be mistaken for a present one.
        with self.busy:
            return await asyncio.wrap_future(
                self._background().submit(self._generate(request, f"version {self.policy_version}"))
            )

    def probe(self, requests: Sequence[SampleRequest]) -> dict[str, list[Completion]]:
        """Sample on each server, side by side."""

        async def ask(server: ServerClient) -> list[Completion]:
            version, deadline_s = self.policy_version, self._pool.update_s
            return await asyncio.gather(
                *(server.generate(request, (), version, "canary", deadline_s) for request in requests)
            )

        answers = self._run(self._pool.each(ask))
        return {server.name: completions for server, completions in answers.items()}

    def close_trajectory(self, trajectory: int) -> None:
        """Forget which server it was on."""
        self._pool.forget(trajectory)

    def rest(self) -> bool:
        """Let servers give their memory back, if they should, once no rank needs them."""
        if self.sleep:
            gather(None)
            if rank() == 0:
                with suppress(SamplerError):  # none is left: the next update starts them anew
                    self._run(self._pool.each(lambda server: server.post("sleep?level=2", {}, self.deadline_s)))
        return self.sleep

    async def _generate(self, request: SampleRequest, salt: str) -> Completion:
        end_ids = self._known.end_ids
        return await self._pool.generate(request, end_ids, self.policy_version, salt, self.deadline_s)

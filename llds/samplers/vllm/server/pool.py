"""Several vLLM servers share the load; one that fails leaves it to the others.

Everything here runs on one event loop. A trajectory stays with its server, which has its context in the prefix cache.
An action that a server cannot finish is sampled whole on another, by the same weights and the same seed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from llds.errors import SamplerError
from llds.samplers.base import SampleRequest
from llds.samplers.vllm.server.client import Connections, ServerClient, ServerLost
from llds.types import Completion

Result = TypeVar("Result")


class ServerPool:
    """The servers of a run, as one process sees them.

    Args:
        update_s: Longest time that a request of a weight update may take, in seconds.

    Attributes:
        connections: To all of them.
        update_s: The same.
    """

    def __init__(self, update_s: float = 270.0) -> None:
        self.update_s = update_s
        self.connections = Connections()
        self._servers: dict[str, ServerClient] = {}
        self._homes: dict[int, ServerClient] = {}

    @property
    def alive(self) -> list[ServerClient]:
        """Servers in use."""
        return [server for server in self._servers.values() if not server.lost]

    @property
    def lost(self) -> set[str]:
        """Addresses of servers that are not in use any more."""
        return {server.url for server in self._servers.values() if server.lost}

    @property
    def losses(self) -> str:
        """Which servers are not in use any more, and why, for messages."""
        return "; ".join(f"{server.url}: {server.lost}" for server in self._servers.values() if server.lost)

    def join(self, urls: Sequence[str]) -> None:
        """Use these servers, and only these."""
        self._servers = {url: ServerClient(url, self.connections, self.update_s) for url in urls}
        self._homes = {}

    def forget(self, trajectory: int) -> None:
        """A trajectory will send no further request."""
        home = self._homes.pop(trajectory, None)
        if home is not None:
            home.trajectories -= 1

    async def generate(
        self, request: SampleRequest, end_ids: Sequence[int], version: int, salt: str, deadline_s: float
    ) -> Completion:
        """Sample an action on the trajectory's server, or on another if that is lost.

        Raises:
            SamplerError: If none is left, or the request was refused.
        """
        while self.alive:
            server = self._home(request.trajectory)
            try:
                return await server.generate(request, end_ids, version, salt, deadline_s)
            except ServerLost as error:
                server.lost = server.lost or str(error)
        raise SamplerError(f"no vLLM server is left ({self.losses})")

    def _home(self, trajectory: int) -> ServerClient:
        home = self._homes.get(trajectory)
        if home is None or home.lost:
            self.forget(trajectory)
            home = min(self.alive, key=lambda server: (server.trajectories, server.in_flight))
            home.trajectories += 1
            self._homes[trajectory] = home
        return home

    async def each(self, action: Callable[[ServerClient], Awaitable[Result]]) -> dict[ServerClient, Result]:
        """Do something with every server that is in use; those that are lost over it leave.

        Raises:
            SamplerError: If none is left, or one refused.
        """
        servers = self.alive
        results = await asyncio.gather(*(action(server) for server in servers), return_exceptions=True)
        done: dict[ServerClient, Any] = {}
        for server, result in zip(servers, results, strict=True):
            if isinstance(result, ServerLost):
                server.lost = str(result)
            elif isinstance(result, BaseException):
                raise result
            else:
                done[server] = result
        if not done:
            raise SamplerError(f"no vLLM server is left ({self.losses})")
        return done

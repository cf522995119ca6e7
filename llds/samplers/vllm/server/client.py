"""What a trainer says to one vLLM server, over HTTP."""

from collections.abc import Sequence
from typing import Any

import aiohttp
import orjson

from llds.errors import SamplerError
from llds.samplers.base import SampleRequest
from llds.samplers.vllm.requests import completion, sampling_params
from llds.samplers.vllm.weight_update import Receipt
from llds.types import Completion

_QUICK_S = 10.0


def read_reply(content: bytes, version: int) -> Completion:
    """An action out of the reply of a server.

    Args:
        content: JSON, with an entry for each token.
        version: Of the weights that it must be by.

    Raises:
        SamplerError: If it is not whole, or by other weights.
    """
    choice = orjson.loads(content)["choices"][0]
    return completion(
        choice["token_ids"],
        [entry["logprob"] for entry in choice["logprobs"]["content"]],
        choice["finish_reason"],
        choice["stop_reason"],
        choice["weight_versions"] or (),
        version,
    )


class ServerLost(Exception):  # noqa: N818 (a state of the world)
    """A server does not answer, answers with old weights, or its engine died: whatever it was doing is lost."""


class Connections:
    """Connections to servers, made and used on one event loop."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    @property
    def session(self) -> aiohttp.ClientSession:
        """The session; made on the loop that first asks."""
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        return self._session

    async def close(self) -> None:
        """Close them."""
        if self._session is not None:
            await self._session.close()
            self._session = None


class ServerClient:
    """One server.

    Args:
        url: Its address, such as ``http://127.0.0.1:8000``.
        connections: To speak through.
        update_s: Longest time that a request of a weight update may take, in seconds.

    Attributes:
        in_flight: Actions that it is sampling for this process.
        trajectories: Those that stay with it.
        lost: Why it is not used any more; empty while it is.
    """

    def __init__(self, url: str, connections: Connections, update_s: float = 270.0) -> None:
        self.url = url.rstrip("/")
        self._connections = connections
        self._update_s = update_s
        self.in_flight = 0
        self.trajectories = 0
        self.lost = ""

    @property
    def name(self) -> str:
        """For messages."""
        return f"the vLLM server at {self.url}"

    async def generate(
        self,
        request: SampleRequest,
        end_ids: Sequence[int],
        version: int,
        salt: str,
        deadline_s: float,
    ) -> Completion:
        """Sample one action.

        Raises:
            ServerLost: If the server cannot do so, and another might.
            SamplerError: If it refuses this request.
        """
        body = {
            "token_ids": request.token_ids,
            "sampling_params": sampling_params(request, end_ids),
            "cache_salt": salt,
        }
        self.in_flight += 1
        try:
            answer = await self._posted("inference/v1/generate", body, deadline_s)
        finally:
            self.in_flight -= 1
        try:
            return read_reply(answer, version)
        except SamplerError as error:
            raise ServerLost(str(error)) from error

    async def call(self, method: str, *arguments: str) -> list[Any]:
        """Call a method of the server's workers, one on each of its GPUs; returns the result of each."""
        body = {"method": method, "args": list(arguments)}
        answer = await self.post("collective_rpc", body, self._update_s)
        return list(answer["results"]) if answer else []

    async def begin_update(self, brings_its_own: str) -> None:
        """Stop whatever is still being sampled, and get ready for weights."""
        await self.post("pause?mode=abort", {}, self._update_s)
        await self.call("llds_begin_update", brings_its_own)

    async def end_update(self, version: int) -> tuple[list[Receipt], bool]:
        """Stamp the new version; returns each worker's receipt, and whether the prefix cache was forgotten."""
        receipts: list[Receipt] = await self.call("llds_end_update", str(version))
        await self.post("update_weight_version", {"new_version": str(version)}, _QUICK_S)
        answer = await self.post("reset_prefix_cache", {}, _QUICK_S)
        await self.post("resume", {}, _QUICK_S)
        return receipts, bool(answer["success"])

    async def describe(self) -> dict[str, Any]:
        """What the server runs."""
        found: dict[str, Any] = (await self.call("llds_describe"))[0]  # all workers run the same
        return found

    async def tokenize(self, text: str) -> list[int]:
        """The server's tokens of a text."""
        body = {"prompt": text, "add_special_tokens": False}
        answer = await self.post("tokenize", body, _QUICK_S)
        return list(answer["tokens"])

    async def world_size(self) -> int:
        """GPUs that the server computes on."""
        async with self._connections.session.get(
            f"{self.url}/get_world_size", timeout=aiohttp.ClientTimeout(_QUICK_S), allow_redirects=False
        ) as answer:
            self._refuse_redirect(answer, "get_world_size")
            return int((await answer.json())["world_size"])

    async def post(self, path: str, body: dict[str, Any], deadline_s: float) -> Any:
        """Post and return the answer, None if it is empty.

        Raises:
            ServerLost: If there is none in time, or the server has failed.
            SamplerError: If it is a refusal, or leads to another address.
        """
        answer = await self._posted(path, body, deadline_s)
        return orjson.loads(answer) if answer else None

    async def _posted(self, path: str, body: dict[str, Any], deadline_s: float) -> bytes:
        timeout = aiohttp.ClientTimeout(deadline_s, sock_connect=_QUICK_S)
        try:
            async with self._connections.session.post(
                f"{self.url}/{path}", json=body, timeout=timeout, allow_redirects=False
            ) as answer:
                self._refuse_redirect(answer, path)
                content = await answer.read()
        except TimeoutError as error:
            raise ServerLost(f"no answer from {self.url}/{path} within {deadline_s:g} s") from error
        except aiohttp.ClientError as error:
            raise ServerLost(f"{type(error).__name__}: {error}") from error
        if answer.status >= 400:
            said = " ".join(content.decode(errors="replace").split())[:300]  # on one line, whatever it is
            if answer.status >= 500:
                raise ServerLost(f"{self.url}/{path} failed ({answer.status}): {said}")
            raise SamplerError(f"{self.name} refused {path} ({answer.status}): {said}")
        return content

    def _refuse_redirect(self, answer: aiohttp.ClientResponse, path: str) -> None:
        """Prompts and weights go where the configuration says and nowhere else."""
        if 300 <= answer.status < 400:
            raise SamplerError(
                f"Expected {self.name} (`rollout.sampler.urls`) to answer {path} itself, got a redirect to "
                f"{answer.headers.get('Location', 'no address')}, which is not followed: it would send prompts or "
                "weights there. Name that address if you trust it."
            )

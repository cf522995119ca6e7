"""A retrieval server: the protocol of Search-R1 over any retriever. The only file that imports starlette and uvicorn.

``POST /retrieve`` answers queries, ``GET /health`` tells that it does. A bad request gets a status of 400 to 499 and
``{"error": ...}`` in one sentence; a retriever that fails gets 503, so that clients try again. Left out: encryption,
which a proxy in front of it gives, and the command line (`llds.cli.commands.serve_retriever`).
"""

import asyncio
import hmac
import json
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from llds.errors import ConfigurationError, DataError, RetrievalError
from llds.retrieval.base import Retriever
from llds.retrieval.batching import BatchingRetriever
from llds.retrieval.search_r1 import RequestLimits, encode_reply, parse_request

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse

_KEEP_ALIVE_S = 75
_REQUEST_S = 30  # for a whole request to come in
_log = logging.getLogger(__name__)


class _BodyTooLargeError(Exception):
    pass


class _Endpoints:
    """What the server does for each path."""

    def __init__(self, retriever: Retriever, top_k: int, token: str | None, limits: RequestLimits) -> None:
        self.retriever = retriever
        self._batches = BatchingRetriever(retriever)
        self.top_k = top_k
        self.token = token
        self.limits = limits

    async def retrieve(self, request: "Request") -> "JSONResponse":
        """``POST /retrieve``."""
        if not self._is_allowed(request):
            return _error(401, "Expected the header `Authorization: Bearer TOKEN` with this server's token.")
        try:
            asked = parse_request(json.loads(await self._body(request)), self.top_k, self.limits)
        except DataError as error:
            return _error(400, str(error))
        except (ValueError, RecursionError) as error:
            return _error(400, f"Expected a body in JSON, got another one ({error}).")
        except _BodyTooLargeError:
            return _error(413, f"Expected a body of at most {self.limits.body_bytes:,} bytes, got more.")
        try:
            results = await self._batches.retrieve(asked.queries, asked.top_k)
        except RetrievalError as error:
            _log.warning("The retriever failed: %s", error)
            return _error(503, str(error))
        return _json(200, encode_reply(results, asked.return_scores))

    async def health(self, request: "Request") -> "JSONResponse":
        """``GET /health``: needs no token; what the retriever is, is told to those who may ask it only."""
        told: dict[str, Any] = {"status": "ok"}
        if self._is_allowed(request):
            told |= {"fingerprint": self.retriever.fingerprint, "retriever": self.retriever.describe()}
        return _json(200, told)

    def _is_allowed(self, request: "Request") -> bool:
        given = request.headers.get("authorization", "")
        return self.token is None or hmac.compare_digest(given.encode(), f"Bearer {self.token}".encode())

    async def _body(self, request: "Request") -> bytes:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > self.limits.body_bytes:
                raise _BodyTooLargeError
        return body


def retrieval_app(
    retriever: Retriever, top_k: int = 3, token: str | None = None, limits: RequestLimits | None = None
) -> "Starlette":
    """The server as an ASGI application.

    Args:
        retriever: An open retriever.
        top_k: Number of passages per query where a request names none.
        token: What clients must send as ``Authorization: Bearer TOKEN``; None lets everybody in.
        limits: What a request may ask for.
    """
    # Imported here: a run that serves nothing does not pay for it at start-up.
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.routing import Route

    async def http_error(request: "Request", error: Exception) -> "JSONResponse":
        status = error.status_code if isinstance(error, HTTPException) else 500
        return _error(status, f"Expected POST /retrieve or GET /health, got {request.method} {request.url.path}.")

    async def bug(request: "Request", error: Exception) -> "JSONResponse":
        return _error(500, f"The retriever broke ({type(error).__name__}); the server's output says more.")

    endpoints = _Endpoints(retriever, top_k, token, limits or RequestLimits())
    return Starlette(
        routes=[
            Route("/retrieve", endpoints.retrieve, methods=["POST"]),
            Route("/health", endpoints.health, methods=["GET"]),
        ],
        exception_handlers={HTTPException: http_error, Exception: bug},
    )


class AppServer:
    """Serves an ASGI application from a socket that is bound when this is made.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 is a free one.

    Attributes:
        url: Where it can be reached, such as ``http://127.0.0.1:8000``.

    Raises:
        ConfigurationError: The address cannot be had.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 8000) -> None:
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._socket = socket.create_server((host, port), family=family, backlog=1024)
        except (OSError, OverflowError) as error:
            raise ConfigurationError(
                f"Expected to listen on {host} port {port}, got: {str(error).rstrip('.')}. Set another `port` (0 is a "
                "free one) or `host`."
            ) from error
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self._socket.getsockname()[1]}"
        self._server: Any = None
        self._stopped = False

    def run(self, app: Any) -> None:
        """Serve until `stop` or, in the main thread, until a signal.

        Raises:
            KeyboardInterrupt: By Ctrl-C, once what was being answered is answered.
        """
        import uvicorn

        # No logging of uvicorn's own: its errors and warnings go where those of everything else go.
        config = uvicorn.Config(
            app,
            http=_impatient_protocol(),
            log_config=None,
            access_log=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=5,
        )
        self._server = uvicorn.Server(config)
        self._server.should_exit = self._stopped
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """Let `run` return; from another thread."""
        self._stopped = True
        if self._server is not None:
            self._server.should_exit = True

    def close(self) -> None:
        """Give the address back; for a server that never ran."""
        self._socket.close()


@contextmanager
def serving(app: Any, port: int = 0) -> Iterator[str]:
    """Serve an ASGI application to this machine from a thread, while the block runs; yields its address.

    Args:
        app: The application.
        port: Port to listen on; 0 is a free one.
    """
    server = AppServer("127.0.0.1", port)
    thread = threading.Thread(target=server.run, args=(app,), name="llds-server", daemon=True)
    thread.start()
    try:
        yield server.url
    finally:
        server.stop()
        thread.join()


def _impatient_protocol() -> type[asyncio.Protocol]:
    """HTTP as uvicorn speaks it, but that a request which is not there whole in time ends its connection.

    uvicorn waits for ever for a client that connects and says nothing, or half of a request: each holds a file
    descriptor, and a few thousand of them keep everybody else out.
    """
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class ImpatientProtocol(H11Protocol):
        """One connection."""

        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def _wait(self) -> None:
            if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):  # the request is there
                self._stop_waiting()
            elif self._timer is None:
                self._timer = self.loop.call_later(_REQUEST_S, self.transport.abort)

        def _stop_waiting(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return ImpatientProtocol


def _json(status: int, content: Any) -> "JSONResponse":
    from starlette.responses import JSONResponse

    return JSONResponse(content, status)


def _error(status: int, message: str) -> "JSONResponse":
    return _json(status, {"error": message})

"""Connections to a retrieval server, on which a whole exchange has one deadline. The only file that imports httpcore.

HTTP clients bound the wait for each part of a reply; a server that sends a byte now and then, in the head of its reply
or in the body, keeps them for ever. Here every read and write may take what is left of the exchange's time, and no
more. Left out: what is asked and what an answer means (`llds.retrieval.http`).
"""

import time
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

import httpcore

from llds.errors import RetrievalError

_deadline: ContextVar[float] = ContextVar("deadline")  # of the exchange that this thread is in


class Connections:
    """Connections that are kept and shared by threads. Proxies are not used, redirects not followed.

    Args:
        most: Largest number of them.
        token: Is sent as ``Authorization: Bearer TOKEN``; None sends none.
    """

    def __init__(self, most: int, token: str | None = None) -> None:
        self._pool = httpcore.ConnectionPool(
            max_connections=most, max_keepalive_connections=most, network_backend=_Backend()
        )
        self._headers: dict[bytes | str, bytes | str] = {
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
        }
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"

    def exchange(self, method: str, url: str, wait_s: float, max_bytes: int, content: bytes = b"") -> tuple[int, bytes]:
        """Send a request; return the status and the whole body of the reply.

        Args:
            method: ``GET`` or ``POST``.
            url: The address.
            wait_s: Longest time for all of it, in seconds.
            max_bytes: Largest body of a reply that is read.
            content: The body of the request.

        Raises:
            TimeoutError: It took longer.
            RetrievalError: There is no connection, the reply is none of HTTP, or its body is too large.
        """
        _deadline.set(time.monotonic() + wait_s)
        waits = dict.fromkeys(("connect", "read", "write", "pool"), wait_s)
        try:
            with self._pool.stream(
                method, url, headers=self._headers, content=content, extensions={"timeout": waits}
            ) as reply:
                return reply.status, _bounded(reply.iter_stream(), max_bytes)
        except httpcore.TimeoutException as error:
            raise TimeoutError from error
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError) as error:
            raise RetrievalError(f"{type(error).__name__}: {error}.") from error

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()


def _bounded(parts: Iterable[bytes], max_bytes: int) -> bytes:
    body = bytearray()
    for part in parts:
        body += part
        if len(body) > max_bytes:
            raise RetrievalError(f"Expected a reply of at most {max_bytes:,} bytes, got more.")
    return bytes(body)


def _left(timeout: float | None) -> float:
    """The seconds that a single read or write may take."""
    left = _deadline.get() - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout("no time left")
    return left if timeout is None else min(timeout, left)


class _Backend(httpcore.NetworkBackend):
    """Opens connections on which reads and writes keep the deadline."""

    def __init__(self) -> None:
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect, in no more than the time that is left."""
        return _Stream(self._inner.connect_tcp(host, port, _left(timeout), local_address, socket_options))

    def sleep(self, seconds: float) -> None:
        """Sleep, no longer than the time that is left."""
        self._inner.sleep(min(seconds, _left(None)))


class _Stream(httpcore.NetworkStream):
    """A connection on which reads and writes keep the deadline."""

    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read what is there, at most so many bytes."""
        return self._inner.read(max_bytes, _left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write all of it."""
        self._inner.write(buffer, _left(timeout))

    def close(self) -> None:
        """Close the connection."""
        self._inner.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """Go on encrypted, with the same deadline."""
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, _left(timeout)))

    def get_extra_info(self, info: str) -> Any:
        """What httpcore asks of a connection, such as whether it can still be read."""
        return self._inner.get_extra_info(info)

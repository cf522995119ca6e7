"""The address of a Chroma server, as a value of a configuration, and whether a server is there."""

import http.client
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from llds.errors import ConfigurationError, RetrievalError
from llds.retrieval.http import read_token

_PORTS = {"http": 8000, "https": 443}


@dataclass(frozen=True)
class ChromaServer:
    """A Chroma server (``chroma run --path FOLDER --port 8000``)."""

    url: str
    """Address, such as http://127.0.0.1:8000, or https://... for an encrypted connection."""
    token_file: str | None = None
    """File that holds the token which the server, or the proxy before it, asks for; null sends none."""
    token_header: Literal["Authorization", "X-Chroma-Token"] = "Authorization"  # noqa: S105 (a name)
    """Header of the token; in Authorization it follows the word Bearer."""
    tenant: str = "default_tenant"
    """Chroma's tenant."""
    database: str = "default_database"
    """Chroma's database of that tenant."""
    timeout_s: float = 10.0
    """Longest wait for a reply while the agent searches, in seconds; shorter than `rollout.tool_calls.deadline_s`."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.username or parts.password or parts.query:
            raise ConfigurationError(  # which does not repeat it: it may hold a secret
                "Expected `retriever.server.url` without a password and without anything behind the port, as it is "
                "saved with the run and shown in messages. Use `token_file` for a secret."
            )
        if parts.scheme not in _PORTS or not parts.hostname or port == -1 or parts.path.strip("/"):
            raise ConfigurationError(
                f"Expected `retriever.server.url` like http://127.0.0.1:8000, got {self.url!r}. Give scheme, host and "
                "port, and nothing behind them."
            )
        if self.timeout_s <= 0:
            raise ConfigurationError(f"Expected `retriever.server.timeout_s` > 0, got {self.timeout_s}. Raise it.")

    @property
    def host(self) -> str:
        """Host name or address."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """Port; 8000 for http and 443 for https where the address names none."""
        parts = urlsplit(self.url)
        return parts.port or _PORTS[parts.scheme]

    @property
    def is_encrypted(self) -> bool:
        """Whether the connection is."""
        return urlsplit(self.url).scheme == "https"

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"the Chroma server at {self.url}"

    @property
    def way_out(self) -> str:
        """What a user can do when it does not answer."""
        return (
            f"Start it (`chroma run --path FOLDER --host {self.host} --port {self.port}`) or correct "
            "`retriever.server.url`."
        )

    def headers(self) -> dict[str, str]:
        """Headers of every request.

        Raises:
            ConfigurationError: The token cannot be read.
        """
        if self.token_file is None:
            return {}
        prefix = "Bearer " if self.token_header == "Authorization" else ""  # noqa: S105
        return {self.token_header: prefix + read_token(self.token_file)}


def check_server(server: ChromaServer) -> None:
    """Ask for a sign of life, with a time limit, which chromadb's own first requests have not.

    Raises:
        RetrievalError: There is no server, it is none of Chroma, or it does not let us in.
    """
    kind = http.client.HTTPSConnection if server.is_encrypted else http.client.HTTPConnection
    connection = kind(server.host, server.port, timeout=server.timeout_s)
    try:
        connection.request("GET", "/api/v2/heartbeat", headers=server.headers())
        reply = connection.getresponse()
        body = reply.read(10_000)
    except (OSError, http.client.HTTPException) as error:
        raise RetrievalError(
            f"Expected a Chroma server at {server.url}, got {type(error).__name__}: {error}. {server.way_out}"
        ) from error
    finally:
        connection.close()
    if reply.status in (401, 403):
        raise RetrievalError(
            f"Expected the Chroma server at {server.url} to let us in, got status {reply.status}. "
            "Set `retriever.server.token_file` to a file with its token, and check `retriever.server.token_header`."
        )
    if reply.status != 200 or b"heartbeat" not in body:
        raise RetrievalError(
            f"Expected a Chroma server at {server.url}, got something else (status {reply.status}, {body[:60]!r}). "
            "Correct `retriever.server.url`."
        )

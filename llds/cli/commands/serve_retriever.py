"""``llds serve-retriever``: any retriever of a configuration, offered over HTTP with the protocol of Search-R1.

Reads the same files and takes the same keys as ``llds fit``, of which it looks at ``retrieval`` only.
"""

import signal
from collections.abc import Sequence
from dataclasses import dataclass

from llds.cli.config.parser import ConfigurationParser
from llds.cli.config.retrieval import make_retriever, retrieval_parser
from llds.cli.plain import say
from llds.errors import ConfigurationError
from llds.retrieval.http import read_token
from llds.retrieval.server import AppServer, RequestLimits, retrieval_app

_DESCRIPTION = "Offer a retriever over HTTP, with the protocol of Search-R1 (POST /retrieve), until Ctrl-C."
_EPILOG = (
    "Example: llds serve-retriever -c llds:quickstart --port 0. "
    "Keys of a retriever: llds serve-retriever --retrieval.retriever.help llds.retrieval.ChromaRetriever."
)
_OWN_ADDRESSES = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class _Address:
    """Where to serve, and whom."""

    host: str = "127.0.0.1"
    """Address to listen on. On one that other machines reach, set a token."""
    port: int = 8000
    """Port to listen on; 0 is a free one, which is printed."""
    token_file: str | None = None
    """File with the token that clients must send, as ``Authorization: Bearer TOKEN``; null lets everybody in."""


def serve_retriever(args: Sequence[str]) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Args:
        args: Arguments after ``serve-retriever``.

    Raises:
        ConfigurationError: A setting cannot work, or the address is taken.
        RetrievalError: The retriever's index cannot be used.
    """
    parser = _parser()
    settings = parser.parse_args(list(args))
    retriever = make_retriever(parser, settings)
    if not 1 <= settings.top_k <= settings.limits.top_k:
        raise ConfigurationError(
            f"Expected `top_k` from 1 to {settings.limits.top_k} (`limits.top_k`), got {settings.top_k}."
        )
    token = read_token(settings.token_file) if settings.token_file else None
    server = AppServer(settings.host, settings.port)
    if token is None and settings.host not in _OWN_ADDRESSES:
        say(f"Everybody who reaches {server.url} can search: set `token_file` to change that.", is_error=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what Ctrl-C does: the retriever is closed
    try:
        with retriever:
            name, url = type(retriever).__name__, server.url
            say(f"{name} (fingerprint {retriever.fingerprint}) at {url}/retrieve, until Ctrl-C")
            server.run(retrieval_app(retriever, settings.top_k, token, settings.limits))
    except KeyboardInterrupt:
        pass
    finally:
        server.close()
    say("Stopped.")


def _parser() -> ConfigurationParser:
    parser = retrieval_parser("llds serve-retriever", _DESCRIPTION, _EPILOG)
    parser.add_class_arguments(_Address)
    parser.add_argument("--top_k", type=int, default=3, help="Passages per query where a request names no `topk`.")
    parser.add_class_arguments(RequestLimits, "limits")
    return parser

"""The rung that tells a web service."""

import ipaddress
import json
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from llds.callbacks.ladder.background import Background
from llds.callbacks.ladder.rung import Incident, Moment, Rung
from llds.callbacks.ladder.when import When
from llds.errors import ConfigurationError


class Webhook(Rung):
    """Posts the incident as JSON, from rank 0, beside the training.

    A service that refuses, fails or does not answer in time leaves a warning; the run goes on. Chat services take
    ``text``, which holds the line that `Warn` says. Addresses of this machine are never asked for through a proxy;
    others are, where the environment names one (``https_proxy``).

    Args:
        url: Where to, ``http://`` or ``https://``; kept in the run's ``config.yaml``.
        url_file: File that holds the address instead, where it is a secret.
        when: When it posts.
        timeout_s: Seconds to connect and to answer; the end of the run waits for it so long.

    Raises:
        ConfigurationError: If the address or the time cannot be used.
    """

    def __init__(
        self, url: str = "", url_file: str | None = None, when: When = When(), timeout_s: float = 10.0
    ) -> None:
        super().__init__(when)
        url = _read(url_file) if url_file is not None else url
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or timeout_s <= 0:
            raise ConfigurationError(
                "Expected `Webhook` in `collapse.ladder` to have an address that begins with http:// or https:// "
                f"(`url`, or the content of `url_file`) and timeout_s > 0, got {url_file or url or 'none'} and "
                f"{timeout_s}."
            )
        self.url = url
        self.timeout_s = timeout_s
        proxies = [urllib.request.ProxyHandler({})] if _is_this_machine(parts.hostname) else []
        self._opener = urllib.request.build_opener(*proxies)
        self._background = Background(timeout_s)

    def act(self, moment: Moment) -> str:
        """Nothing yet: what the others do is part of the news."""
        return ""

    def announce(self, incident: Incident) -> None:
        """Post."""
        host = urlsplit(self.url).hostname
        self._background.start(f"Webhook at {host}", lambda: self._post(incident))

    def close(self) -> None:
        """Wait for the answer."""
        self._background.close()

    def _post(self, incident: Incident) -> None:
        body = json.dumps({"text": incident.line} | incident.as_dict()).encode()
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})  # noqa: S310 (checked)
        with self._opener.open(request, timeout=self.timeout_s):
            pass


def _read(path: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"Expected `url_file` of a `Webhook` in `collapse.ladder` to be a file with an address, got {path}: "
            f"{error}."
        ) from error


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

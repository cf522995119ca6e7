"""Telling people: the services that a training logs to, and addresses of the web. Waits for nothing but the network.

The packages of the services are never imported here: who logs to one has imported it.
"""

import ipaddress
import json
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from llds.errors import ConfigurationError

Severity = Literal["WARN", "ERROR"]
"""Of W&B and of Trackio alike."""
TITLE = 64
"""Characters that a title of W&B may have."""


def alert_wandb(title: str, text: str, severity: Severity, run: Any = None) -> bool:
    """Raise an alert in a run of W&B, which sends it to where its owner wants it (mail, Slack).

    Args:
        title: Alerts of one title come at most once a minute.
        text: What is seen and what to do.
        severity: How bad it is.
        run: The run; None: the one that is active in this process.

    Returns:
        Whether there was a run.
    """
    run = run or getattr(sys.modules.get("wandb"), "run", None)
    if run is None:
        return False
    run.alert(title=title[: TITLE - 1], text=text, level=severity)
    return True


def alert_trackio(title: str, text: str, severity: Severity, run: Any = None) -> bool:
    """Raise an alert in a run of Trackio; like `alert_wandb`."""
    trackio = sys.modules.get("trackio")
    if trackio is None:
        return False
    run = run or trackio.context_vars.current_run.get()
    if run is None:
        return False
    run.alert(title=title, text=text, level=trackio.AlertLevel[severity])
    return True


class Webhook:
    """Posts JSON to an address. Addresses of this machine are never asked for through a proxy.

    Args:
        url: Begins with http:// or https://.
        timeout_s: Seconds to connect and to answer.
        what: Whose address it is, for the message.

    Attributes:
        host: Of the address.

    Raises:
        ConfigurationError: If the address or the time cannot be used.
    """

    def __init__(self, url: str, timeout_s: float = 10.0, what: str = "a webhook") -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or timeout_s <= 0:
            raise ConfigurationError(
                f"Expected {what} to have an address that begins with http:// or https:// (`url`, or the content of "
                f"`url_file`), and timeout_s > 0, got {url or 'none'} and {timeout_s}."
            )
        self.url, self.host, self.timeout_s = url, parts.hostname, timeout_s
        proxies = [urllib.request.ProxyHandler({})] if _is_this_machine(parts.hostname) else []
        self._opener = urllib.request.build_opener(*proxies)

    def post(self, payload: Mapping[str, Any]) -> None:
        """Post, and wait for the answer.

        Raises:
            OSError: If the service refuses, fails or does not answer in time.
        """
        body = json.dumps(payload).encode()
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})  # noqa: S310 (checked)
        with self._opener.open(request, timeout=self.timeout_s):
            pass


def address_in(path: str) -> str:
    """The address that a file holds.

    Raises:
        ConfigurationError: If the file cannot be read.
    """
    try:
        return Path(path).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"Expected `url_file` of a webhook to be a file with an address, got {path}: {error}."
        ) from error


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

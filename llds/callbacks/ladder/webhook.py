"""The rung that tells a web service."""

from llds import alerts
from llds.callbacks.ladder.background import Background
from llds.callbacks.ladder.rung import Incident, Moment, Rung
from llds.callbacks.ladder.when import When


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
        address = url if url_file is None else alerts.address_in(url_file)
        self._webhook = alerts.Webhook(address, timeout_s, what="`Webhook` in `collapse.ladder`")
        self._background = Background(timeout_s)

    def act(self, moment: Moment) -> str:
        """Nothing yet: what the others do is part of the news."""
        return ""

    def announce(self, incident: Incident) -> None:
        """Post."""
        news = {"text": incident.line} | incident.as_dict()
        self._background.start(f"Webhook at {self._webhook.host}", lambda: self._webhook.post(news))

    def close(self) -> None:
        """Wait for the answer."""
        self._background.close()

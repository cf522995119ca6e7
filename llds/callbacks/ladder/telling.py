"""Rungs that tell others: a web service, or the services to which the run logs."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import Logger, MLFlowLogger, WandbLogger

from llds import alerts
from llds.callbacks.ladder.background import Background
from llds.callbacks.ladder.rung import Incident, Moment, Rung
from llds.callbacks.ladder.when import When
from llds.errors import ConfigurationError
from llds.modules import SearchAgentModule
from llds.strategies import best_effort
from llds.trackio import TrackioLogger


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


class LoggerRung(Rung):
    """Tells the service behind one of the run's loggers, with what `Warn` says; a failure leaves a warning.

    Args:
        when: When it tells; by default once when a warning begins and once when an alarm does.
    """

    logger: type[Logger]
    overlay: str

    def __init__(self, when: When = When(level="warning")) -> None:
        super().__init__(when)
        self._loggers: list[Any] = []

    def check(self, trainer: pl.Trainer, module: SearchAgentModule) -> None:
        """Find the logger."""
        self._loggers = [one for one in trainer.loggers if isinstance(one, self.logger)]
        if not self._loggers:
            raise ConfigurationError(
                f"Expected a {self.logger.__name__} in `trainer.logger` for the {type(self).__name__} in "
                f"`collapse.ladder`, got none. Take both from llds:logging/{self.overlay}, or take it off the ladder."
            )

    def act(self, moment: Moment) -> str:
        """Nothing yet: what the others do is part of the news."""
        return ""

    def announce(self, incident: Incident) -> None:
        """Tell."""
        for logger in self._loggers:
            with best_effort(f"{type(self).__name__}"):
                self.tell(logger, incident.diagnosis.title, incident)

    @abstractmethod
    def tell(self, logger: Any, title: str, incident: Incident) -> None:
        """Tell the service behind a logger; may raise."""


class LoggerAlert(LoggerRung):
    """Raises an alert in the service behind a logger."""

    raise_alert: Callable[..., bool]

    def tell(self, logger: Any, title: str, incident: Incident) -> None:
        """Raise it."""
        severity: alerts.Severity = "ERROR" if incident.diagnosis.level == "alarm" else "WARN"
        type(self).raise_alert(title, incident.line, severity, logger.experiment)


class WandbAlert(LoggerAlert):
    """Raises an alert in W&B, which sends it where the account's settings say (mail, Slack)."""

    logger, overlay, raise_alert = WandbLogger, "wandb", staticmethod(alerts.alert_wandb)


class TrackioAlert(LoggerAlert):
    """Raises an alert in Trackio, which also posts it to the webhook that it has been given."""

    logger, overlay, raise_alert = TrackioLogger, "trackio", staticmethod(alerts.alert_trackio)


class MLflowTag(LoggerRung):
    """Tags the run in MLflow, which has no alerts: ``llds.level``, ``llds.cause`` and ``llds.message``.

    Runs can be found by them: ``tags.`llds.level` = 'alarm'``.
    """

    logger, overlay = MLFlowLogger, "mlflow"

    def tell(self, logger: MLFlowLogger, title: str, incident: Incident) -> None:
        """Set them."""
        found = incident.diagnosis
        tags = {"level": found.level, "cause": found.cause or "unknown", "message": incident.line}
        for name, value in tags.items():
            logger.experiment.set_tag(logger.run_id, f"llds.{name}", value)

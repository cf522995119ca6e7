"""The detector beside a training of another framework: fed with what is logged, it speaks when trouble begins."""

import logging
import threading
from collections.abc import Mapping
from typing import Any

from llds import alerts
from llds.monitor import LEVELS, CollapseDetector, Diagnosis, Settings
from llds.monitor.signals import REWARD
from llds.monitor.sources.vocabulary import Vocabulary

LOG = logging.getLogger("llds")


class Watch:
    """Watches a training and says what begins: on the console, to W&B and Trackio where a run of theirs is active.

    Args:
        vocabulary: The names by which the framework logs.
        warmup: Rows that give the baselines, and in which it is silent.
        webhook: Address that news are posted to, as JSON with ``text``; null: none.
        strictness: See `llds.monitor.CollapseDetector`.

    Attributes:
        detector: Its ``last`` is the newest diagnosis.

    Raises:
        ConfigurationError: If the address of the webhook cannot be used.
    """

    def __init__(
        self, vocabulary: Vocabulary, *, warmup: int = 5, webhook: str | None = None, strictness: float = 1.0
    ) -> None:
        self.detector = CollapseDetector(warmup, Settings(), strictness)
        self._vocabulary = vocabulary
        self._webhook = alerts.Webhook(webhook) if webhook else None
        self._said = 0
        self._rows = 0

    def add(self, step: int, record: Mapping[str, Any], *, aloud: bool = True) -> Diagnosis | None:
        """Take in what was logged at a step.

        Args:
            step: Its number.
            record: Values by the framework's names; what is no metric of training is passed over.
            aloud: Whether to speak: on one process, and not of rows that were logged before a training went on.

        Returns:
            The state of the run; None if the record has nothing to judge from.
        """
        row = self._vocabulary.row(record)
        if not row:
            return None
        found = self.detector.update(step, row)
        self._rows += 1
        if aloud and self._rows == self.detector.warmup and REWARD not in self.detector.tracks:
            LOG.warning("llds: no reward among the metrics so far: only values that are no numbers will be seen.")
        level = LEVELS.index(found.level)
        if level > self._said and found.level in ("warning", "alarm"):
            self._said = level
            if aloud:
                self._tell(found)
        elif found.level in ("none", "note"):
            self._said = 0
        return found

    def _tell(self, found: Diagnosis) -> None:
        """Say it; a service that fails is a line more, and nothing else."""
        line = f"Step {found.iteration}: {found.message}"
        LOG.warning("llds: %s", line)
        severity: alerts.Severity = "ERROR" if found.level == "alarm" else "WARN"
        for tell in (alerts.alert_wandb, alerts.alert_trackio):
            try:
                tell(found.title, line, severity)
            except Exception as error:  # whatever a service's client raises, the training matters more
                LOG.warning("llds: %s: %s: %s", tell.__name__, type(error).__name__, error)
        if self._webhook is not None:
            news = {"text": line, "iteration": found.iteration, "diagnosis": found.as_dict()}
            threading.Thread(target=self._post, args=(news,), daemon=True).start()

    def _post(self, news: Mapping[str, Any]) -> None:
        assert self._webhook is not None  # noqa: S101
        try:
            self._webhook.post(news)
        except Exception as error:  # likewise
            LOG.warning("llds: webhook at %s: %s: %s", self._webhook.host, type(error).__name__, error)

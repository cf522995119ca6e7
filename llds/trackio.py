"""A logger of Lightning for Trackio, which keeps experiments on this machine or in a Space of Hugging Face."""

from argparse import Namespace
from importlib.util import find_spec
from typing import Any

from lightning.fabric.utilities.logger import _convert_params, _flatten_dict
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from llds.errors import ConfigurationError


class TrackioLogger(Logger):
    """Logs metrics and configuration to Trackio (``trackio show`` opens its page).

    Args:
        project: Its name.
        name: Of the run; null: one that Trackio invents.
        space_id: Space to keep it in; null: this machine, in ``TRACKIO_DIR``.
        resume: Whether a run of this name goes on: never, allow or must.

    Raises:
        ConfigurationError: Without the package.
    """

    def __init__(
        self, project: str = "llds", name: str | None = None, space_id: str | None = None, resume: str = "allow"
    ) -> None:
        super().__init__()
        if find_spec("trackio") is None:
            raise ConfigurationError("Expected the package trackio for a TrackioLogger, got none: pip install trackio.")
        self._settings = {"project": project, "name": name, "space_id": space_id, "resume": resume}
        if name is None:
            self._settings["resume"] = "never"
        self._run: Any = None

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Trackio's run, which the first use begins."""
        if self._run is None:
            import trackio

            self._run = trackio.init(**self._settings, embed=False, auto_log_cpu=False)
        return self._run

    @property
    def name(self) -> str | None:
        """Of the project."""
        return self._settings["project"]

    @property
    def version(self) -> str | None:
        """Name of the run."""
        return self._run.name if self._run is not None else self._settings["name"]

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Log what was measured at a step."""
        self.experiment.log(dict(metrics), step=step)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Keep the configuration with the run."""
        self.experiment.config.update(_flatten_dict(_convert_params(params)))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is left."""
        if self._run is not None:
            self._run.finish()
            self._run = None

"""The rung that runs a command of the user's."""

import json
import os
import signal
import subprocess
from contextlib import suppress

from llds.callbacks.ladder.background import Background
from llds.callbacks.ladder.rung import Incident, Moment, Rung
from llds.callbacks.ladder.when import When
from llds.errors import ConfigurationError

_LOG = "command.log"


class RunCommand(Rung):
    """Runs a command on rank 0, with the incident as JSON on its standard input.

    It runs beside the training, in ``/bin/sh``, with the rights of the training. Its output goes to ``command.log`` in
    the incident's folder. Nothing that a model wrote is part of the command line. One that fails, hangs (it is killed,
    with all it started) or is missing leaves a warning; the run goes on.

    Args:
        command: The command line.
        when: When it runs.
        timeout_s: Seconds after which it is killed; the end of the run waits for it so long.

    Raises:
        ConfigurationError: If there is no command, or no time.
    """

    def __init__(self, command: str, when: When = When(), timeout_s: float = 60.0) -> None:
        super().__init__(when)
        if not command.strip() or timeout_s <= 0:
            raise ConfigurationError(
                "Expected `RunCommand` in `collapse.ladder` to have a command and timeout_s > 0, got "
                f"{command!r} and {timeout_s}."
            )
        self.command = command
        self.timeout_s = timeout_s
        self._background = Background(timeout_s)

    def act(self, moment: Moment) -> str:
        """Nothing yet: the command may want the incident's folder."""
        return ""

    def announce(self, incident: Incident) -> None:
        """Start the command."""
        self._background.start(f"Command `{self.command}`", lambda: self._run(incident))

    def close(self) -> None:
        """Wait for it."""
        self._background.close()

    def _run(self, incident: Incident) -> None:
        path = incident.folder / _LOG if incident.folder else os.devnull
        with open(path, "ab") as log:
            process = subprocess.Popen(  # noqa: S602 (a shell is what the user asks for)
                self.command,
                shell=True,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # so that it can be killed with all that it started
            )
            try:
                process.communicate(json.dumps(incident.as_dict()).encode(), self.timeout_s)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if process.returncode:
            raise ChildProcessError(f"exit status {process.returncode} (see {path})")

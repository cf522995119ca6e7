"""Stopping a run by a signal: after a checkpoint where there is something to save, with the signal's exit status.

Ctrl-C (SIGINT), SIGTERM (Kubernetes, SLURM, ``kill``) and the signal by which SLURM announces the end of a job's time
stop a run in the same way. During an iteration's rollout and scoring it stops at once, as its state before them is
known. During the updates it stops when they are done. Of several ranks all stop together, at an iteration's end.

Left out on purpose: what is saved (`IterationCheckpoint`).
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from llds.errors import ConfigurationError
from llds.modules import SearchAgentModule
from llds.strategies import gather, world_size


def exit_status(trainer: pl.Trainer, status: int) -> int:
    """Return the status with which a rank ends, where a run was stopped on purpose.

    A rank that Lightning started for the first one says 0: to any other status of it Lightning answers by killing the
    first, which has the status of the run, and may still be writing.

    Args:
        trainer: The run's.
        status: Of the run.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)  # none for a single device
    return 0 if isinstance(environment, LightningEnvironment) and trainer.local_rank != 0 else status


class Stopped(SIGTERMException):
    """A signal has stopped the run; as the end of a process its status is 128 + the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


class GracefulStop(pl.Callback):
    """Stops a run when a signal comes.

    Args:
        within_s: Seconds after SIGTERM in which the process ends in any case, even if something hangs; the last
            checkpoint then holds.

    Attributes:
        is_stopping: Whether the run stops at the end of this iteration, on all ranks.

    Raises:
        ConfigurationError: If there is no time at all.
    """

    def __init__(self, within_s: float = 300.0) -> None:
        if within_s <= 0:
            raise ConfigurationError(f"Expected `stopping.within_s` > 0, got {within_s}.")
        self.within_s = within_s
        self.is_stopping = False
        self._received: int | None = None
        self._has_raised = False
        self._trainer: pl.Trainer | None = None
        self._handled: list[int] = []

    @contextmanager
    def handling(self, trainer: pl.Trainer, is_training: bool) -> Iterator[None]:
        """Within, signals stop what a trainer does, and the process ends with their exit status.

        Args:
            trainer: Is about to begin.
            is_training: Whether it trains; else Ctrl-C is left to Lightning, and SLURM's signal alone.
        """
        self._trainer = trainer
        requeue = _requeue_signal(trainer) if is_training else None  # ours keeps Lightning from its own
        self._handled = [signal.SIGTERM, *([signal.SIGINT] if is_training else []), *([requeue] if requeue else [])]
        before = {number: signal.signal(number, self._receive) for number in self._handled}
        try:
            with _Deadline(self.within_s):
                yield
        except SystemExit as end:
            if isinstance(end, Stopped) and end.number == requeue and trainer.is_global_zero:
                _requeue()
            stopped = end
            if isinstance(end, SIGTERMException) and end.code is None:  # Lightning's own, between two batches
                stopped = Stopped(signal.SIGTERM)
            elif isinstance(end.__context__, KeyboardInterrupt):  # which Lightning makes a status of 1
                stopped = Stopped(signal.SIGINT)
            if isinstance(stopped, Stopped) and exit_status(trainer, 1) == 0:
                raise SystemExit(0) from end
            if stopped is not end:
                raise stopped from end
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals back from Lightning, whose handler of SIGTERM is a collective operation at any moment."""
        for number in self._handled:
            signal.signal(number, self._receive)

    def on_train_batch_start(self, *_: Any) -> None:
        """Stop, where that was put off."""
        self._stop()

    def on_validation_start(self, *_: Any) -> None:
        """Stop, where that was put off."""
        self._stop()

    def on_train_batch_end(self, *_: Any) -> None:
        """Let the ranks agree, before the checkpoint is written that the run then ends with."""
        received = [one for one in gather(self._received) if one is not None]
        if received:
            self._received, self.is_stopping = received[0], True

    def _stop(self) -> None:
        is_agreed = self.is_stopping or world_size() == 1  # one that came while the checkpoint was written
        if self._received is not None and is_agreed:
            self._has_raised = True
            raise Stopped(self._received)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal, in the main thread between two steps of Python."""
        is_first, self._received = self._received is None, self._received or number
        if number == signal.SIGINT and not is_first:
            raise KeyboardInterrupt
        if self._has_raised or not is_first:
            return
        if world_size() == 1 and not self._is_updating():
            self._has_raised = True
            raise Stopped(number)
        if not self._is_training():
            return
        rank_zero_info(
            f"{signal.Signals(number).name}: the run stops with a checkpoint at the end of this iteration"
            + ("; Ctrl-C again stops it at once." if number == signal.SIGINT else ".")
        )

    def _is_training(self) -> bool:
        return self._trainer is not None and self._trainer.training

    def _is_updating(self) -> bool:
        """Whether the weights are ahead of the last iteration that is done, so that there is nothing to save yet."""
        trainer = self._trainer
        if trainer is None or not self._is_training():
            return False
        module, done = trainer.lightning_module, trainer.fit_loop.epoch_loop.batch_progress.total.completed
        return isinstance(module, SearchAgentModule) and (module.is_updating or module.iteration > done)


class _Deadline:
    """Ends the process some time after SIGTERM, even where the main thread no longer gets to its handlers.

    The interpreter writes the numbers of signals to a pipe when they arrive, whatever the main thread does.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="llds-deadline", daemon=True).start()

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._before)
        os.close(self._writer)  # unless it counts down, the thread ends; what hangs at the exit is bounded too

    def _watch(self) -> None:
        with os.fdopen(self._reader, "rb", buffering=0) as reader:
            while data := reader.read(64):
                if signal.SIGTERM in data:
                    threading.Event().wait(self._seconds)
                    _end_now(self._seconds)


def _end_now(seconds: float) -> None:
    print(
        f"llds: SIGTERM {seconds:g} s ago (`stopping.within_s`), and something hangs: the process ends now. The last "
        "checkpoint holds: --ckpt_path last.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(128 + signal.SIGTERM)


def _requeue_signal(trainer: pl.Trainer) -> int | None:
    """The signal by which SLURM asks to be requeued, as Lightning finds and configures it."""
    environment = trainer._accelerator_connector.cluster_environment
    if not isinstance(environment, SLURMEnvironment) or not environment.auto_requeue:
        return None
    return int(environment.requeue_signal or signal.SIGUSR1)


def _requeue() -> None:
    """Ask SLURM to start the job again, which then goes on by ``--ckpt_path last``."""
    array, task = os.getenv("SLURM_ARRAY_JOB_ID"), os.getenv("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]
    try:
        result = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)  # noqa: S603, S607
    except OSError as error:
        rank_zero_warn(f"Job {job} is not requeued: {error}. Submit it again; --ckpt_path last goes on.")
        return
    if result.returncode:
        rank_zero_warn(
            f"Job {job} is not requeued: {result.stderr.strip()}. Submit it again; --ckpt_path last goes on."
        )
    else:
        rank_zero_info(f"Requeued the SLURM job {job}.")

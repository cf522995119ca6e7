"""One run in a folder at a time: a lock that ends with the process that holds it, however it ends."""

import json
import os
import socket
from contextlib import suppress
from pathlib import Path

import lightning.pytorch as pl
from filelock import FileLock, Timeout
from lightning.pytorch.utilities import rank_zero_warn

from llds.errors import ConfigurationError
from llds.strategies import rank, together

_LOCK = ".run.lock"
_HOLDER = ".run.json"


class RunLock(pl.Callback):
    """Holds the lock of the run's folder while a run trains; of several ranks the first holds it for all.

    It is the system's own (``flock``), which forgets a process that is gone, on the machines of a network disk too.
    Where a disk knows no locks, the run goes on without, and says so.
    """

    def __init__(self) -> None:
        self._lock: FileLock | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take the lock of a folder that is there, before anything that takes long.

        Raises:
            ConfigurationError: If another process holds it.
        """
        if Path(trainer.default_root_dir).is_dir():
            self.on_fit_start(trainer, pl_module)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the lock of a new folder, once all settings have been found good.

        Raises:
            ConfigurationError: If another process holds it.
        """
        together(lambda: self._take(Path(trainer.default_root_dir)) if rank() == 0 and self._lock is None else None)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give it back; after an error the end of the process does, when the last checkpoint is written."""
        self._give_back()

    def _take(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / _LOCK, fallback_to_soft=False)  # a soft one would outlive its process
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ConfigurationError(
                f"Expected a folder in which no run is under way, got `trainer.default_root_dir` {folder}, where "
                f"{_holder(folder)} trains. Wait for it, or name another folder."
            ) from None
        except (OSError, NotImplementedError) as error:
            rank_zero_warn(f"No lock in {folder} ({error}): llds cannot see whether another run writes there too.")
            return
        self._lock = lock
        holder = {"pid": os.getpid(), "host": socket.gethostname()}
        with suppress(OSError):  # a full disk: what comes next will say so
            (folder / _HOLDER).write_text(json.dumps(holder) + "\n")

    def _give_back(self) -> None:
        if self._lock is not None:
            with suppress(OSError):
                (Path(self._lock.lock_file).parent / _HOLDER).unlink()
            with suppress(OSError):
                self._lock.release()
            self._lock = None


def _holder(folder: Path) -> str:
    """The process that holds the lock, in words."""
    try:
        found = json.loads((folder / _HOLDER).read_text())
        return f"process {found['pid']} on {found['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"

"""Disks that fail in the middle of a run: full, read-only, gone. The run says so in a line and loses nothing."""

import ctypes
import os
import random
import resource
import shutil
import subprocess
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl

from llds.callbacks import list_checkpoints
from llds.errors import LLDSError
from llds.files import check_whole
from tools.campaign.kills import Setup, compare, log, train
from tools.campaign.table import Outcome
from tools.campaign.training import SMALL, corpus, finish, fit_arguments

FaultName = Literal["full", "read-only", "gone"]
_CLONE_NEWNS = 0x00020000
_FAULT = """\
    - class_path: tools.campaign.disks.DiskFault
      init_args: {{kind: {kind}, iteration: {iteration}, room: {room}}}"""


class DiskFault(pl.Callback):
    """Lets the disk of the run's folder fail from an iteration on, for this process alone where it can.

    Args:
        kind: What becomes of it.
        iteration: When.
        room: Bytes that a file may still have on a full disk.
    """

    def __init__(self, kind: FaultName, iteration: int, room: int) -> None:
        self.kind = kind
        self.iteration = iteration
        self.room = room

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Let it fail."""
        if pl_module.iteration == self.iteration:
            root = Path(trainer.default_root_dir)
            if self.kind == "full":
                resource.setrlimit(resource.RLIMIT_FSIZE, (self.room, self.room))
            elif self.kind == "read-only":
                make_read_only(root)
            else:
                root.rename(root.with_name(f"{root.name}-away"))


def make_read_only(folder: Path) -> None:
    """Mount a folder over itself, read-only, for this process alone.

    Raises:
        OSError: If this process may not.
    """
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    for arguments in (["--make-rprivate", "/"], ["--bind", folder, folder], ["-o", "remount,ro,bind", folder]):
        subprocess.run(["mount", *arguments], check=True)


def tries(draw: random.Random, folder: Path) -> Iterator[Outcome]:
    """Faults at random moments, each followed by a resume, for ever."""
    setup = Setup((*SMALL, f"--retrieval.retriever.corpus={corpus(folder)}"), iterations=4, every=1)
    whole = folder / "whole"
    result = train(setup, whole, None, {})
    if result.exit_status != 0:
        yield Outcome("full", f"the run without a fault ended with {result.exit_status}: {log(whole)}")
        return
    kinds: list[FaultName] = ["full", "gone"]
    if os.geteuid() == 0:  # who may mount
        kinds.append("read-only")
    for number in count():
        for kind in kinds:
            yield Outcome(kind, _try(kind, setup, folder / f"{kind}-{number}", whole, draw))


def _try(kind: FaultName, setup: Setup, root: Path, whole: Path, draw: random.Random) -> str:
    """What was lost when the disk failed once; the run is then resumed on a good one."""
    room = draw.choice([0, 1_000, 100_000, 3_000_000, 15_000_000])
    fault = _FAULT.format(kind=kind, iteration=draw.randrange(1, setup.iterations), room=room)
    arguments = fit_arguments(
        root, setup.settings, iterations=setup.iterations, every=setup.every, callbacks=fault,
        index=whole.with_suffix(".index"),
    )  # fmt: skip
    status = finish(arguments, root.with_suffix(".log"))
    away = root.with_name(f"{root.name}-away")
    if away.exists():
        shutil.rmtree(root, ignore_errors=True)
        away.rename(root)
    if status is None:
        return "the run hangs"
    if "Traceback" in root.with_suffix(".log").read_text(errors="replace"):
        return f"a raw error: {log(root)}"
    for path in list_checkpoints(root):
        try:
            check_whole(path)
        except LLDSError as error:
            return f"a checkpoint under its name is damaged: {error}"
    again = train(setup, root, None, {})
    if again.exit_status != 0:
        return f"the resumed run ended with {again.exit_status}: {log(root)}"
    differences = compare(whole, root)
    shutil.rmtree(root)
    return f"room {room}: {len(differences)} differences; first {differences[0]}" if differences else ""

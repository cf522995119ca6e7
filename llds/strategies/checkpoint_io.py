"""Writing and reading checkpoints: streamed into the run's folder, with a checksum, whole or not at all.

Lightning's own way keeps a whole checkpoint in main memory and in the folder for temporary files on its way, and says
nothing of damage when it loads one. Where several ranks save, the error of one must not leave the others waiting:
within `errors_held` it is kept for the caller instead of raised.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.cloud_io import _is_local_file_protocol
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from llds.errors import CheckpointError
from llds.files import check_room, check_whole, write_sealed
from llds.strategies.ranks import gather

_HELD: list[list[OSError]] = []
"""Where errors go within `errors_held`; of one save at a time."""


@contextmanager
def errors_held() -> Iterator[list[OSError]]:
    """Within, errors of writing a checkpoint are collected."""
    held: list[OSError] = []
    _HELD.append(held)
    try:
        yield held
    finally:
        _HELD.pop()


@contextmanager
def errors_of_writing(path: Path) -> Iterator[None]:
    """Collect what is raised, where somebody collects, or say it in one sentence.

    Args:
        path: What is written.

    Raises:
        CheckpointError: If nobody collects errors.
    """
    try:
        yield
    except OSError as error:
        if not _HELD:
            raise CheckpointError(
                f"Expected to write {path}, got: {error}. Make room, or name another place."
            ) from error
        _HELD[-1].append(error)


def save_file(content: dict[str, Any], path: Path) -> None:
    """Write a checkpoint file, where there is room for it: streamed, sealed, forced to disk, then renamed.

    Raises:
        OSError: If it cannot be written.
    """
    check_room(path.parent, tensor_bytes(content))
    with write_sealed(path) as file:
        torch.save(content, file)  # type: ignore[arg-type]  # needs nothing but `write` and `flush`


def tensor_bytes(content: object) -> int:
    """Bytes of the tensors in nested mappings and sequences, each storage once, as ``torch.save`` writes them."""
    storages: dict[int, int] = {}

    def add(value: object) -> None:
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(value, dict):
            for one in value.values():
                add(one)
        elif isinstance(value, (list, tuple)):
            for one in value:
                add(one)

    add(content)
    return sum(storages.values())


def save_training_state(trainer: pl.Trainer, path: Path) -> str:
    """Save a checkpoint on every rank; returns what went wrong, the same on all; empty if it is whole."""
    with errors_held() as held:
        try:
            trainer.save_checkpoint(path, weights_only=False)
        except OSError as error:  # of a strategy or a plugin of another
            held.append(error)
    return next((found for found in gather(str(held[0]) if held else "") if found), "")


class SealedCheckpointIO(TorchCheckpointIO):
    """Lightning's plugin for checkpoint files of one process, or of several with the same weights."""

    _has_warned = False

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint; one that goes to a store of objects goes Lightning's way.

        Raises:
            CheckpointError: If it cannot be written.
        """
        if storage_options is not None or not _is_local_file_protocol(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with errors_of_writing(Path(path)):
            save_file(checkpoint, Path(path))
            self._warn_of_objects(Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """Load a checkpoint that is whole.

        Raises:
            CheckpointError: If it is damaged.
        """
        if _is_local_file_protocol(path) and Path(path).is_file():
            check_whole(Path(path))
        return super().load_checkpoint(path, map_location, weights_only)

    def _warn_of_objects(self, path: Path) -> None:
        """Say it, once, where a state holds what ``llds fit --ckpt_path`` will refuse to load."""
        found = [] if self._has_warned else torch.serialization.get_unsafe_globals_in_checkpoint(path)
        if found:
            self._has_warned = True
            rank_zero_warn(
                f"Expected tensors and plain values in a checkpoint, got objects of {', '.join(found)}: it only loads "
                "with --weights_only false. Change the `state_dict` that brings them."
            )


def use_sealed_checkpoints(trainer: pl.Trainer) -> None:
    """Have a trainer write sealed files, unless its strategy writes folders or the user has brought a plugin."""
    if trainer.strategy._checkpoint_io is None or type(trainer.strategy._checkpoint_io) is TorchCheckpointIO:
        trainer.strategy._checkpoint_io = SealedCheckpointIO()

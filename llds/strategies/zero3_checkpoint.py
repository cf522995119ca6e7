"""Reading checkpoints that DeepSpeed ZeRO-3 wrote: folders in which every rank has left its part."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from llds.files import check_whole
from llds.strategies.partitioned import gathered, merged_checkpoint
from llds.strategies.ranks import rank

CHECKPOINT_TAG = "checkpoint"
"""The folder inside a checkpoint that holds the parts; Lightning names it so."""

_PARTS = "*zero_pp_rank_*_optim_states.pt"


def ranks_of_checkpoint(path: Path) -> int | None:
    """How many ranks wrote a checkpoint; None where it is none of ZeRO-3."""
    return len(list((path / CHECKPOINT_TAG).glob(_PARTS))) or None


def load_weights(folder: Path, module: nn.Module, writers: int) -> dict[str, Any]:
    """Load what was trained into a module, whatever the number of ranks; a collective operation.

    Args:
        folder: Of the parts.
        module: Partitioned or not.
        writers: Number of ranks that wrote the checkpoint.

    Returns:
        The rest of the checkpoint, as one of those ranks wrote it.
    """
    weights = merged_checkpoint(folder.parent, CHECKPOINT_TAG) if rank() == 0 else None
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            with gathered([parameter], writes=True):
                if weights is not None:
                    parameter.data.copy_(weights[name])
    return read_state(folder, rank() % writers)


def read_state(folder: Path, number: int) -> dict[str, Any]:
    """What a rank kept beside the weights: counters, positions, the state of callbacks."""
    [path] = folder.glob(f"*zero_pp_rank_{number}_mp_rank_00_model_states.pt")
    # As DeepSpeed's own loader does with these files: they can run code, so only a run's own are to be loaded.
    return cast(dict[str, Any], torch.load(path, map_location="cpu", weights_only=False))


def trained_weights(path: Path) -> Mapping[str, Tensor]:
    """Names and full tensors of what was trained, of a checkpoint of ZeRO-3 or of any other strategy.

    Args:
        path: The checkpoint, a folder or a file.

    Raises:
        CheckpointError: If it is damaged.
    """
    check_whole(path)
    if path.is_dir():
        return merged_checkpoint(path, CHECKPOINT_TAG)
    return cast(Mapping[str, Tensor], torch.load(path, map_location="cpu", weights_only=True)["state_dict"])

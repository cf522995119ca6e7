"""Parameters that DeepSpeed ZeRO-3 has partitioned over the ranks, seen from a single one of them.

Every function also takes plain parameters, for which there is nothing to do, so that callers need not know which they
have. The only file that imports deepspeed.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def is_partitioned(parameter: Tensor) -> bool:
    """Whether DeepSpeed owns the parameter: its tensor is then empty, but for the moments in which it is gathered."""
    return hasattr(parameter, "ds_id")  # DeepSpeed's mark; its own test for it would import DeepSpeed


def whole_shape(parameter: Tensor) -> torch.Size:
    """The shape of a parameter, also while it is in parts."""
    shape: torch.Size = parameter.ds_shape if is_partitioned(parameter) else parameter.shape  # type: ignore[attr-defined]
    return shape


@contextmanager
def gathered(parameters: Iterable[nn.Parameter], writes: bool = False) -> Iterator[None]:
    """The whole of these parameters on every rank, and only of these; a collective operation.

    Args:
        parameters: Partitioned or not.
        writes: Whether rank 0 may change them within; its values then go to all ranks.
    """
    partitioned = [parameter for parameter in parameters if is_partitioned(parameter)]
    if not partitioned:
        yield
        return
    from deepspeed.runtime.zero import GatheredParameters

    with GatheredParameters(partitioned, modifier_rank=0 if writes else None):
        yield


def reads(module: nn.Module, *parameters: Tensor | None) -> None:
    """Tell DeepSpeed that the module's forward reads parameters of other modules.

    They are then gathered around its forward and its backward, like its own.
    """
    for parameter in parameters:
        if parameter is not None and is_partitioned(parameter):
            from deepspeed.runtime.zero import register_external_parameter

            register_external_parameter(module, parameter)


def local_part(parameter: nn.Parameter) -> Tensor:
    """What this rank holds of a parameter; its memory, not a copy."""
    part: Tensor = parameter.ds_tensor if is_partitioned(parameter) else parameter  # type: ignore[attr-defined]
    return part.data


def assign_parts(values: Iterable[tuple[nn.Parameter, Tensor]]) -> None:
    """Overwrite what this rank holds of parameters; a collective operation.

    Args:
        values: Parameters, and values of the shape of their `local_part`.
    """
    pairs = list(values)
    # Small parameters may be whole on every rank all the time: those copies must follow the parts.
    whole: Any = [parameter for parameter, _ in pairs if is_partitioned(parameter) and parameter.numel()]
    if whole:
        whole[0].partition(param_list=whole)
    for parameter, value in pairs:
        local_part(parameter).copy_(value)
    if whole:
        whole[0].all_gather(param_list=whole)


def merged_checkpoint(path: Path, tag: str) -> dict[str, Tensor]:
    """Names and full tensors of the trained parameters of a checkpoint, put together in main memory."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    merged: dict[str, Tensor] = get_fp32_state_dict_from_zero_checkpoint(
        str(path), tag=tag, exclude_frozen_parameters=True
    )
    return merged


def without_compiled_communication() -> None:
    """Keep DeepSpeed from compiling its shared-memory collectives, which takes a minute; gloo serves on CPUs."""
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__ = {}

"""Weights of a model as a stream of names and full tensors, also where ranks hold parts of them."""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from llds.strategies import gathered, rank


def full_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Name and full tensor of each parameter, tied ones once, then of each buffer that a checkpoint holds.

    Of partitioned parameters one at a time is gathered: every rank must exhaust the iterator, and a tensor is valid
    only until the next is asked for.
    """
    for name, parameter in model.named_parameters():
        with gathered([parameter]):
            yield name, parameter.detach()
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    yield from ((name, value) for name, value in model.state_dict().items() if name not in parameters)


def weights_hash(weights: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over names, types, shapes and values: the same for a checkpoint and the folder exported from it.

    Args:
        weights: Names and full tensors; exhausted.
    """
    parts = []
    for name, tensor in weights:
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        parts.append(f"{name} {tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(data).hexdigest()}")
    return hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()


def hash_on_first_rank(weights: Iterable[tuple[str, Tensor]]) -> str:
    """`weights_hash` on the first rank, which writes it; the others only take part in gathering, and get an empty one.

    Args:
        weights: Names and full tensors; exhausted on every rank.
    """
    if rank() == 0:
        return weights_hash(weights)
    deque(weights, maxlen=0)
    return ""

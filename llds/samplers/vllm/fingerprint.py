"""Fingerprints of tensors: what left the trainer is what reached the engine, bit for bit.

Both sides compute them on the device that holds the tensor, at the speed of its memory. They find errors, not attacks.
"""

import torch
from torch import Tensor

_COLUMNS = 1024


def fingerprint(tensor: Tensor) -> str:
    """A checksum of a tensor's bytes, dtype and shape; equal tensors on any device have equal ones.

    Three sums of the bytes as integers, modulo 2^64: plain, weighted by row and weighted by column, so that neither a
    changed bit nor two values in each other's place go unnoticed.

    Args:
        tensor: Of any dtype and shape.
    """
    data = as_bytes(tensor)
    if data.storage_offset() % 8:  # a piece of a buffer that others lie before, which cannot be read as wider numbers
        data = data.clone()
    whole = data.numel() // (8 * _COLUMNS) * (8 * _COLUMNS)
    sums = torch.zeros(3, dtype=torch.int64, device=data.device)
    if whole:
        table = data[:whole].view(torch.int64).view(-1, _COLUMNS)
        rows, columns = table.sum(1), table.sum(0)
        sums = torch.stack([rows.sum(), _weighted(rows), _weighted(columns)])
    rest = data[whole:].to(torch.int64)
    numbers = [number % 2**64 for number in (*sums.tolist(), int(rest.sum()), int(_weighted(rest)))]
    return f"{tensor.dtype}{list(tensor.shape)}:" + "-".join(f"{number:x}" for number in numbers)


def as_bytes(tensor: Tensor) -> Tensor:
    """A tensor's bytes in order, ``[N]`` uint8; a view where its memory has that order."""
    flat = tensor.detach().contiguous().reshape(-1)
    if flat.numel() < 2:  # may count as contiguous whatever its stride is
        flat = flat.clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8)


def _weighted(values: Tensor) -> Tensor:
    return (values * torch.arange(1, len(values) + 1, device=values.device)).sum()

"""Sequences as a prefix tree in one row: what several trajectories share is held, and computed, once.

The trajectories of a group share their prompt; those that made the same first call share more. The tree is laid out in
one packed row without padding: a *segment* is what a trajectory adds to those before it, and attends to itself and to
its path, the tokens of its ancestors. G trajectories of a P-token prompt with R tokens each are P + G*R tokens, in
place of G*(P+R).

Left out on purpose: how a model attends along the paths (`llds.modules.policy.tree_attention`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class PrefixTree:
    """Sequences packed as a prefix tree of U distinct tokens.

    Attributes:
        token_ids: The packed row, ``[U]`` long.
        positions: Position of each packed token in its sequences, ``[U]`` long.
        nodes: Place in the packed row of token ``t`` of sequence ``b``, 0 on padding, ``[B, T]`` long.
        segment_lengths: Tokens of each segment, in the order of the packed row, which they partition.
        keys: What the segments attend to, one segment after the other: places in the packed row of all tokens from the
            first of the sequence to the last of the segment, ``[K]`` long.
        key_lengths: How many of `keys` are each segment's.
    """

    token_ids: Tensor
    positions: Tensor
    nodes: Tensor
    segment_lengths: tuple[int, ...]
    keys: Tensor
    key_lengths: tuple[int, ...]

    def __len__(self) -> int:
        """Number of distinct tokens, U."""
        return len(self.token_ids)

    @classmethod
    def build(cls, input_ids: Tensor, lengths: Tensor) -> "PrefixTree":
        """Pack sequences.

        Args:
            input_ids: Padded on the right, ``[B, T]`` long.
            lengths: Tokens of each sequence, ``[B]`` long.
        """
        sequences = [row[:length] for row, length in zip(input_ids.cpu().numpy(), lengths.tolist(), strict=True)]
        nodes = np.zeros(input_ids.shape, dtype=np.int64)
        packed, positions, keys, end = [], [], [], 0
        previous = -1
        for row in lexicographic_order(sequences):
            # In this order, no sequence shares a longer prefix with any earlier one than with the last one.
            shared = 0 if previous < 0 else common_prefix(sequences[previous], sequences[row])
            added = len(sequences[row]) - shared
            nodes[row, :shared] = nodes[previous, :shared]
            nodes[row, shared : shared + added] = np.arange(end, end + added)
            if added:
                packed.append(sequences[row][shared:])
                positions.append(np.arange(shared, shared + added))
                keys.append(nodes[row, : shared + added])
            end += added
            previous = row
        device = input_ids.device
        return cls(
            torch.from_numpy(np.concatenate(packed)).to(device),
            torch.from_numpy(np.concatenate(positions)).to(device),
            torch.from_numpy(nodes).to(device),
            tuple(len(tokens) for tokens in packed),
            torch.from_numpy(np.concatenate(keys)).to(device),
            tuple(len(places) for places in keys),
        )


def lexicographic_order(sequences: Sequence[np.ndarray]) -> list[int]:
    """Indices of the sequences in lexicographic order, which puts those that share a prefix next to each other."""
    as_bytes = [sequence.astype(">i8").tobytes() for sequence in sequences]  # big-endian: bytes compare as numbers
    return sorted(range(len(sequences)), key=as_bytes.__getitem__)


def common_prefix(one: np.ndarray, other: np.ndarray) -> int:
    """Length of the longest common prefix."""
    width = min(len(one), len(other))
    differs = one[:width] != other[:width]
    return int(differs.argmax()) if differs.any() else width

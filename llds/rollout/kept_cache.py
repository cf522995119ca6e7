"""Keys and values that are kept between the turns of a trajectory, and the batch that several of them make.

Keys and values are a function of the weights and the tokens before; they are stored with their tokens and used only for
a context that begins with the same ones. Whoever changes the weights drops them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer


@dataclass(frozen=True)
class KeyValues:
    """Keys and values of one trajectory.

    Attributes:
        token_ids: The tokens that they belong to.
        layers: Keys and values by layer, each ``[heads, tokens, head size]``.
    """

    token_ids: list[int]
    layers: list[tuple[Tensor, Tensor]]

    def usable(self, context: list[int]) -> int:
        """Number of tokens of a context that need not go through the model again; its last one always must."""
        n = len(self.token_ids)
        return min(n, len(context) - 1) if context[:n] == self.token_ids else 0


class BatchContext:
    """Contexts of a batch: cached tokens, then new tokens, both padded on the left.

    Args:
        contexts: The tokens of each row, at least one.
        caches: The keys and values of each row, where it has any.
        pad_id: Any token id; padding is masked.

    Attributes:
        width: Columns of the batch.
        input_ids: ``[rows, width]`` long.
        attention_mask: 1 on tokens, ``[rows, width]`` long.
        new_tokens: Tokens of all rows that are not cached.
    """

    def __init__(self, contexts: Sequence[list[int]], caches: Sequence[KeyValues | None], pad_id: int) -> None:
        self._caches = caches
        self._cached = [cache.usable(ids) if cache else 0 for ids, cache in zip(contexts, caches, strict=True)]
        new = [len(ids) - n for ids, n in zip(contexts, self._cached, strict=True)]
        self.new_tokens = sum(new)
        self.width = max(self._cached) + max(new)
        self.input_ids = torch.full((len(contexts), self.width), pad_id)
        self.attention_mask = torch.zeros((len(contexts), self.width), dtype=torch.long)
        for row, (ids, n) in enumerate(zip(contexts, self._cached, strict=True)):
            self._place(row, ids[:n], max(self._cached))
            self._place(row, ids[n:], self.width)

    def _place(self, row: int, ids: list[int], end: int) -> None:
        self.input_ids[row, end - len(ids) : end] = torch.tensor(ids, dtype=torch.long)
        self.attention_mask[row, end - len(ids) : end] = 1

    def past_key_values(self, device: torch.device) -> DynamicCache | None:
        """The rows' caches as one, to be extended in place; None when no row has any."""
        filled = next((cache for cache, n in zip(self._caches, self._cached, strict=True) if cache and n), None)
        if filled is None:
            return None
        merged = DynamicCache()
        for layer, (keys, values) in enumerate(filled.layers):
            merged.update(self._merge(layer, 0, keys, device), self._merge(layer, 1, values, device), layer)
        return merged

    def _merge(self, layer: int, part: int, like: Tensor, device: torch.device) -> Tensor:
        heads, _, size = like.shape
        width = max(self._cached)
        merged = torch.zeros((len(self._caches), heads, width, size), dtype=like.dtype, device=device)
        for row, (cache, n) in enumerate(zip(self._caches, self._cached, strict=True)):
            if cache and n:
                merged[row, :, width - n :] = cache.layers[layer][part][:, :n]
        return merged

    def take(self, layers: Sequence[tuple[Tensor, Tensor]], row: int, token_ids: list[int]) -> KeyValues:
        """Cut a row out of the keys and values that a generation left.

        Args:
            layers: Those of the batch, each ``[rows, heads, columns, head size]``.
            row: The row.
            token_ids: The row's context and what it sampled; its last tokens may not have been through the model.
        """
        keys = layers[0][0]
        context = self.attention_mask[row].nonzero()[:, 0]
        sampled = torch.arange(self.width, min(self.width + len(token_ids) - len(context), keys.shape[2]))
        columns = torch.cat([context, sampled]).to(keys.device)
        kept = [(keys[row].index_select(1, columns), values[row].index_select(1, columns)) for keys, values in layers]
        return KeyValues(token_ids[: len(columns)], kept)


def layers_of(cache: object) -> list[tuple[Tensor, Tensor]]:
    """Keys and values by layer; none where a layer does not hold every token (sliding windows, state-space layers)."""
    if not isinstance(cache, DynamicCache):
        return []
    plain = [layer for layer in cache.layers if type(layer) is DynamicLayer]
    layers = [(layer.keys, layer.values) for layer in plain if layer.keys is not None and layer.values is not None]
    return layers if len(layers) == len(cache.layers) else []

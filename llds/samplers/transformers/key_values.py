"""The key-value cache of each trajectory between its turns, and the batch that several of them make.

Keys and values are a function of the weights and the tokens before; they are cached with their tokens and used only for
a context that begins with the same ones. Whoever changes the weights drops them.

Only models whose every layer keeps every token (no sliding windows, no state-space layers) have such keys and values.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

_ROOM = 32
"""Least number of tokens that a layer grows by."""


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

    def past_key_values(self, device: torch.device) -> Cache:
        """The rows' caches as one, to be extended in place."""
        merged = Cache(layer_class_to_replicate=GrowingLayer)
        filled = next((cache for cache, n in zip(self._caches, self._cached, strict=True) if cache and n), None)
        for layer, (keys, values) in enumerate(filled.layers if filled else []):
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

    def compute(self, model: PreTrainedModel) -> list[KeyValues]:
        """Let the new tokens through the model, without its head, and return the keys and values of each row.

        Args:
            model: Keeps every token; in evaluation mode, without gradients.
        """
        cached, mask = max(self._cached), self.attention_mask.to(model.device)
        cache = self.past_key_values(model.device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, cached:]
        decoder = model.base_model
        takes_positions = "position_ids" in inspect.signature(decoder.forward).parameters
        decoder(
            input_ids=self.input_ids[:, cached:].to(model.device),
            attention_mask=mask,
            use_cache=True,
            **{cache_argument(decoder): cache},
            **({"position_ids": positions} if takes_positions else {}),
        )
        return [
            self.take(cache, row, ids[keep].tolist())
            for row, (ids, keep) in enumerate(zip(self.input_ids, self.attention_mask.bool(), strict=True))
        ]

    def take(self, cache: Cache, row: int, token_ids: list[int]) -> KeyValues:
        """Cut a row out of the cache of the batch.

        Args:
            cache: What `past_key_values` returned, extended by a generation.
            row: The row.
            token_ids: The row's context and what it sampled; its last token may not have been through the model.
        """
        layers = [layer for layer in cache.layers if isinstance(layer, GrowingLayer)]
        context = self.attention_mask[row].nonzero()[:, 0]
        sampled = torch.arange(self.width, min(self.width + len(token_ids) - len(context), cache.get_seq_length()))
        columns = torch.cat([context, sampled])
        return KeyValues(token_ids[: len(columns)], [layer.take(row, columns) for layer in layers])


def cache_argument(model: nn.Module) -> str:
    """The name under which a model takes its keys and values: newer releases of transformers call them `cache`.

    Args:
        model: A model, or its body.
    """
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


class GrowingLayer(DynamicLayer):
    """A cache layer that grows into spare room: a new token does not copy all those before it."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append ``[rows, heads, new, head size]`` and return all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._buffers = key_states[:, :, :0], value_states[:, :, :0]
        start = self.get_seq_length()
        end = start + key_states.shape[2]
        if end > self._buffers[0].shape[2]:
            self._buffers = _grown(self._buffers[0], start, end), _grown(self._buffers[1], start, end)
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = new
        self.keys, self.values = self._buffers[0][:, :, :end], self._buffers[1][:, :, :end]
        return self.keys, self.values

    def take(self, row: int, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Copy some columns of a row, each ``[heads, columns, head size]``."""
        keys, values = self._buffers
        columns = columns.to(keys.device)
        return keys[row].index_select(1, columns), values[row].index_select(1, columns)


def _grown(buffer: Tensor, used: int, needed: int) -> Tensor:
    rows, heads, _, size = buffer.shape
    larger = buffer.new_empty((rows, heads, needed + max(_ROOM, needed // 4), size))
    larger[:, :, :used] = buffer[:, :, :used]
    return larger


def keeps_every_token(config: PreTrainedConfig) -> bool:
    """Whether every layer of such a model keeps the keys and values of every token."""
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)

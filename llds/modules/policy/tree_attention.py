"""Attention over a prefix tree, for transformers models: each segment attends to its path and causally to itself.

Registered with transformers as an attention implementation that is `sdpa` wherever no tree is given, so that the same
model still generates and scores plain batches. With a tree, the keys and values of every segment are laid out one
segment after the other; then segments are sequences of their own, of different lengths, whose queries are the last of
their keys. On GPUs, in bf16 and fp16, one call of flash attention takes them all and no mask exists, where a trial on
that GPU gave what SDPA gives; elsewhere each is a call of SDPA, with a mask of its own where it has a path.
"""

from functools import cache
from inspect import signature
from itertools import accumulate
from typing import Any, cast

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from llds.batches.prefix_tree import PrefixTree
from llds.errors import ConfigurationError

TREE_ATTENTION = "llds_tree"
"""Name of the attention implementation."""

_TAKES_GROUPS = "enable_gqa" in signature(varlen_attn).parameters
"""Whether torch's operator takes fewer key-value heads than heads: not in torch 2.11."""

_MAX_FLASH_WIDTH = 256
"""Widest attention head that flash attention takes."""

_TRIED = ("output", "gradient of the queries", "gradient of the keys", "gradient of the values")
_MAX_DIFFERENCE = 0.02
"""Of flash attention to SDPA in a trial, as a share of the norm: rounding to bfloat16 makes 0.004 of it."""


def tree_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    prefix_tree: PrefixTree | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention in the interface of transformers.

    Args:
        module: The attention layer.
        query: ``[B, heads, T, d]``; with a tree ``[1, heads, U, d]``.
        key: ``[B, key-value heads, T, d]``.
        value: Like `key`.
        attention_mask: For plain batches; a tree needs none.
        prefix_tree: The tree that the packed row holds; None is plain `sdpa`.
        **kwargs: ``scaling`` of the products, and more for `sdpa`.

    Returns:
        ``[B, T, heads, d]``, and None in place of the weights.

    Raises:
        ConfigurationError: If a tree is given to a layer that does not see all of the past.
    """
    if prefix_tree is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    if kwargs.get("sliding_window") is not None:
        raise ConfigurationError("one of its layers has a sliding window")
    queries, keys, values = (x[0].transpose(0, 1) for x in (query, key, value))  # [U, heads, d]
    keys, values = (_rows(x, prefix_tree.keys) for x in (keys, values))  # [K, key-value heads, d]
    attend = _flash_attention if _takes_flash_attention(queries, keys, values) else _segment_attention
    return attend(queries, keys, values, prefix_tree, kwargs.get("scaling"))[None], None


def _rows(x: Tensor, places: Tensor) -> Tensor:
    """Rows of a tensor; flat ones, of which the backward pass adds up many at a time."""
    return x.flatten(1).index_select(0, places).unflatten(1, x.shape[1:])


def _segment_attention(queries: Tensor, keys: Tensor, values: Tensor, tree: PrefixTree, scale: float | None) -> Tensor:
    """One segment after the other; ``[U, heads, d]``."""
    has_groups = keys.shape[1] != queries.shape[1]
    of_segments = zip(
        queries.split(tree.segment_lengths), keys.split(tree.key_lengths), values.split(tree.key_lengths), strict=True
    )
    outputs = []
    for segment in of_segments:
        q, k, v = (x.transpose(0, 1)[None] for x in segment)
        is_root = q.shape[2] == k.shape[2]
        mask = None if is_root else _causal(q.shape[2], k.shape[2], q.device)
        output = scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=is_root, scale=scale, enable_gqa=has_groups
        )
        outputs.append(output[0].transpose(0, 1))
    return torch.cat(outputs)


def _causal(queries: int, keys: int, device: torch.device) -> Tensor:
    """The queries are the last of the keys; True where one may look, ``[queries, keys]``."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(diagonal=keys - queries)


def _fits_flash_attention(queries: Tensor, values: Tensor) -> bool:
    is_half = _half(queries.device.type, queries.dtype) in (torch.bfloat16, torch.float16)
    return queries.is_cuda and is_half and queries.shape[2] == values.shape[2] <= _MAX_FLASH_WIDTH


def _takes_flash_attention(queries: Tensor, keys: Tensor, values: Tensor) -> bool:
    if not _fits_flash_attention(queries, values):
        return False
    heads, groups, width = queries.shape[1], keys.shape[1], queries.shape[2]
    return why_not_flash(queries.device, _half(queries.device.type, queries.dtype), heads, groups, width) is None


@cache
def why_not_flash(device: torch.device, dtype: torch.dtype, heads: int, groups: int, width: int) -> str | None:
    """Why flash attention cannot be used; None if it can. Tried once for each kind of layer, and told if it fails.

    Args:
        device: Where it would run.
        dtype: What it would compute in.
        heads: Heads of the queries.
        groups: Heads of keys and values.
        width: Width of a head.
    """
    try:
        reason = _difference_to_sdpa(device, dtype, heads, groups, width)
    except Exception as error:  # a trial of a kernel: each device and release has its own error for what it cannot
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if reason is not None:
        rank_zero_warn(
            f"Expected flash attention for {heads} heads of {width} in {dtype} on {device}, got: {reason}. What "
            "trajectories share is computed with SDPA, which is right and slower."
        )
    return reason


def _difference_to_sdpa(device: torch.device, dtype: torch.dtype, heads: int, groups: int, width: int) -> str | None:
    """Run both on a small tree, forward and backward; what is wrong, if something is."""
    ids = torch.arange(96).view(2, 48)
    ids[1, :20] = ids[0, :20]
    tree = PrefixTree.build(ids.to(device), torch.tensor([48, 40]))
    generator = torch.Generator().manual_seed(0)  # of the CPU: the run's random numbers stay as they are
    sizes = ((sum(tree.segment_lengths), heads), (sum(tree.key_lengths), groups), (sum(tree.key_lengths), groups))
    drawn = [torch.randn(*size, width, generator=generator).to(device, dtype) for size in sizes]

    def tried(attend: Any) -> list[Tensor]:
        inputs = [x.clone().requires_grad_() for x in drawn]
        output = attend(*inputs, tree, None)
        return [output.detach(), *torch.autograd.grad(output.float().square().sum(), inputs)]

    with torch.inference_mode(False), torch.enable_grad():
        drawn = [x.clone() for x in drawn]
        for name, ours, right in zip(_TRIED, tried(_flash_attention), tried(_segment_attention), strict=True):
            gap = float((ours.float() - right.float()).norm() / right.float().norm())
            if not gap <= _MAX_DIFFERENCE:
                return f"its {name} differs from SDPA's by {100 * gap:.2g}%"
    return None


def _flash_attention(queries: Tensor, keys: Tensor, values: Tensor, tree: PrefixTree, scale: float | None) -> Tensor:
    """All segments in one call; ``[U, heads, d]``. A window of (-1, 0) is causal, the last query at the last key."""
    dtype = _half(queries.device.type, queries.dtype)
    has_groups = keys.shape[1] != queries.shape[1]
    if has_groups and not _TAKES_GROUPS:
        keys, values = (x.repeat_interleave(queries.shape[1] // x.shape[1], dim=1) for x in (keys, values))
    grouping: dict[str, Any] = {"enable_gqa": has_groups} if _TAKES_GROUPS else {}
    output = varlen_attn(
        queries.to(dtype),
        keys.to(dtype),
        values.to(dtype),
        _offsets(tree.segment_lengths, queries.device),
        _offsets(tree.key_lengths, queries.device),
        max(tree.segment_lengths),
        max(tree.key_lengths),
        scale=scale,
        window_size=(-1, 0),
        **grouping,
    )
    return cast(Tensor, output)  # without `return_aux` there is nothing beside it


def _half(device: str, dtype: torch.dtype) -> torch.dtype:
    """What SDPA would compute in: autocast's dtype where that is on."""
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else dtype


def _offsets(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """Where each sequence begins, and where the last one ends."""
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)


AttentionInterface.register(TREE_ATTENTION, tree_attention_forward)
AttentionMaskInterface.register(TREE_ATTENTION, sdpa_mask)


def tree_hidden_states(decoder: nn.Module, tree: PrefixTree) -> Tensor:
    """Last hidden states of the packed tokens, ``[U, H]``.

    Args:
        decoder: Body of a model whose attention implementation is `TREE_ATTENTION`.
        tree: The sequences.
    """
    # A mask of four dimensions is taken as it is: transformers would otherwise build one over all pairs of tokens.
    no_mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=tree.token_ids.device)
    output = decoder(
        input_ids=tree.token_ids[None],
        position_ids=tree.positions[None],
        attention_mask=no_mask,
        prefix_tree=tree,
        use_cache=False,
    )
    return output.last_hidden_state[0]


def try_flash_attention(config: PreTrainedConfig, device: torch.device, dtype: torch.dtype) -> str | None:
    """Try flash attention as the layers of a model will use it, before they do; why it cannot be used, if so.

    Args:
        config: Of the model.
        device: Where it trains.
        dtype: Of its weights; autocast's dtype counts where that is on.
    """
    text = config.get_text_config()
    heads = text.num_attention_heads
    groups = getattr(text, "num_key_value_heads", None) or heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    queries, keys = (torch.empty(1, count, width, device=device, dtype=dtype) for count in (heads, groups))
    if not _fits_flash_attention(queries, keys):
        return f"it takes no heads of {width} in {_half(device.type, dtype)} on {device}"
    return why_not_flash(device, _half(device.type, dtype), heads, groups, width)


@torch.no_grad()
def why_not_shared(model: PreTrainedModel) -> str | None:
    """Why a model cannot compute shared prefixes once; None if it can.

    Tries it: two short sequences with a common prefix, as a tree and one by one.
    """
    found = model.config._attn_implementation
    if found == "sdpa":  # asked for, and still there: transformers could not exchange it
        return f"{type(model).__name__} has an attention of its own"
    if found != TREE_ATTENTION:
        return f"its attention implementation is {found}, not sdpa"
    vocabulary = model.config.get_text_config().vocab_size
    ids = (torch.arange(24, device=model.device).view(2, 12) * 7 + 1) % vocabulary
    ids[1, :5] = ids[0, :5]
    decoder = model.get_decoder()
    try:
        tree = PrefixTree.build(ids, torch.tensor([12, 12]))
        shared = tree_hidden_states(decoder, tree)[tree.nodes]
    except Exception as error:  # a trial of foreign code: each architecture has its own error for what it cannot
        return f"{type(model).__name__} does not take a packed tree: {error}"
    plain = decoder(input_ids=ids, use_cache=False).last_hidden_state
    scale = float(plain.float().abs().max())
    if not torch.allclose(shared.float(), plain.float(), atol=0.02 * scale, rtol=0):
        return f"{type(model).__name__} gives other hidden states for a packed tree"
    return None

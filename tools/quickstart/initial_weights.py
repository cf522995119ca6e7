"""Initial weights that copy: a previous-token head and a matching head, set by hand.

What a search agent of this size has to learn first is to copy names: "which token followed this one before?". Training
finds the two attention layers that answer it, but late (thousands of steps); set by hand they work at step 0, and the
warm-up spends its time on what to copy. Training goes on from there with all weights free.

The construction (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"; Olsson et al. 2022,
arXiv 2209.11895): two heads of layer 0 attend to the previous token, by rotary phases that cancel at distance 1, and
write half of its embedding into the residual stream; all heads of layer 1 look for the position whose *previous* token
is the current one, and write the embedding of the token there, which the tied output layer turns into its logit.
"""

import math

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from policy import ROPE_THETA

EMBEDDING_STD = 0.15
CONSTANT = 4.0
"""Value of feature 0 of each embedding, in standard deviations of the others: what position-only heads read."""

PREVIOUS_GAP = 8.0
"""Sum over the frequencies of the score that distance 1 has ahead of distance 0 or 2."""

MATCH_GAIN = 6.0
"""Factor on the score of two equal tokens in layer 1."""

COPY_GAIN = 2.0
"""Factor on what layer 1 copies."""

NUM_FREQUENCIES = 6
"""Rotary frequencies, highest first, that find the previous token."""

NUM_PREVIOUS_HEADS = 2


@torch.no_grad()
def set_copying_weights(model: LlamaForCausalLM, seed: int) -> None:
    """Set the embeddings and the attention of layers 0 and 1; leave everything else as it is.

    Args:
        model: A freshly initialised model with at least two layers and as many key-value heads as heads.
        seed: Seed of the random projections.
    """
    generator = torch.Generator().manual_seed(seed)
    hidden = model.config.hidden_size
    embeddings = model.model.embed_tokens.weight
    embeddings.normal_(0, EMBEDDING_STD, generator=generator)
    embeddings[:, 0] = EMBEDDING_STD * CONSTANT
    read, write, value = (_random_rotation(hidden, generator) for _ in range(3))
    # Neither reads nor writes the constant feature.
    read[:, 0], write[0, :], value[:, 0] = 0, 0, 0
    _attend_to_previous(model, read, write)
    _match_previous_with_current(model, read, write, value, generator)


def _attend_to_previous(model: LlamaForCausalLM, read: Tensor, write: Tensor) -> None:
    attention, size = model.model.layers[0].self_attn, _head_size(model)
    half = size // 2
    frequencies = _rotary_frequencies(model)[:NUM_FREQUENCIES]
    constant = CONSTANT * math.sqrt(read.shape[0] / (read.shape[0] - 1 + CONSTANT**2))  # after RMSNorm
    gain = math.sqrt(PREVIOUS_GAP * math.sqrt(size) / float((1 - frequencies.cos()).sum())) / constant
    query, key = torch.zeros(size, read.shape[0]), torch.zeros(size, read.shape[0])
    query[:NUM_FREQUENCIES, 0] = gain
    key[:NUM_FREQUENCIES, 0] = gain * frequencies.cos()
    key[half : half + NUM_FREQUENCIES, 0] = gain * frequencies.sin()
    for head in range(NUM_PREVIOUS_HEADS):
        rows = slice(head * size, (head + 1) * size)
        attention.q_proj.weight[rows] = query
        attention.k_proj.weight[rows] = key
        attention.v_proj.weight[rows] = read[rows]
        attention.o_proj.weight[:, rows] = write[:, rows] * EMBEDDING_STD


def _match_previous_with_current(
    model: LlamaForCausalLM, read: Tensor, write: Tensor, value: Tensor, generator: torch.Generator
) -> None:
    attention, size = model.model.layers[1].self_attn, _head_size(model)
    carried = NUM_PREVIOUS_HEADS * size
    # The slow rotary pairs only: the fast ones would scramble a match at a distance.
    slow = torch.cat([torch.arange(size // 4, size // 2), torch.arange(3 * size // 4, size)])
    attention.q_proj.weight.zero_()
    attention.k_proj.weight.zero_()
    for head in range(model.config.num_attention_heads):
        features = _random_rotation(carried, generator)[: len(slow)] * math.sqrt(MATCH_GAIN)
        attention.q_proj.weight[head * size + slow] = features @ read[:carried]
        attention.k_proj.weight[head * size + slow] = features @ write[:, :carried].T
    attention.v_proj.weight.copy_(value)
    attention.o_proj.weight.copy_(value.T * COPY_GAIN)


def _rotary_frequencies(model: LlamaForCausalLM) -> Tensor:
    size = _head_size(model)
    return torch.tensor(ROPE_THETA) ** (-torch.arange(0, size, 2) / size)


def _head_size(model: LlamaForCausalLM) -> int:
    return model.config.hidden_size // model.config.num_attention_heads


def _random_rotation(size: int, generator: torch.Generator) -> Tensor:
    return torch.nn.init.orthogonal_(torch.empty(size, size), generator=generator)

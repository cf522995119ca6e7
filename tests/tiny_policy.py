"""Real Qwen2 policies that are small enough for unit tests."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM


def random_policy(tokenizer: PreTrainedTokenizerBase, seed: int = 0) -> Qwen2ForCausalLM:
    """Two layers, grouped attention, hidden size 32; weights large enough that contexts matter."""
    torch.manual_seed(seed)
    return Qwen2ForCausalLM(_config(tokenizer, hidden_size=32, num_hidden_layers=2, initializer_range=0.15)).eval()


def chain_policy(
    tokenizer: PreTrainedTokenizerBase, following: Mapping[str, Mapping[str, float]], otherwise: float = -30.0
) -> Qwen2ForCausalLM:
    """A policy whose next token depends on the last one alone, by logits that are written down.

    Args:
        tokenizer: Its tokenizer.
        following: For a token, the logits of the tokens that may follow it.
        otherwise: The logit of all others.
    """
    size = len(tokenizer)
    hidden = 4 * (size // 4 + 1)  # a dimension for each token, and an even number of them for both attention heads
    config = _config(tokenizer, hidden_size=hidden, num_hidden_layers=1, tie_word_embeddings=False)
    model = Qwen2ForCausalLM(config).eval()
    with torch.no_grad():
        layer = model.model.layers[0]
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        embedding = torch.eye(size, hidden)
        model.model.embed_tokens.weight.copy_(embedding)
        normed = model.model.norm(embedding)[0, 0]  # what the final norm makes of a 1
        model.lm_head.weight.fill_(otherwise / normed)
        for token, logits in following.items():
            for next_token, logit in logits.items():
                row, column = number(tokenizer, next_token), number(tokenizer, token)
                model.lm_head.weight[row, column] = logit / normed
    return model


def number(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    """The id of a text that is one token."""
    ids = tokenizer.encode(token, add_special_tokens=False)
    assert len(ids) == 1, f"{token!r} is {len(ids)} tokens"
    return int(ids[0])


def _config(tokenizer: PreTrainedTokenizerBase, *, hidden_size: int, **others: Any) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **others,
    )

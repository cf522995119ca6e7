"""The start policies' tokenizers and architecture."""

import json

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from retrieval import TOP_K

VOCABULARY = 8192
EOS, PAD, CHAT_END = "<|endoftext|>", "<|pad|>", "<|end|>"
Tokenizers = tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast]
TAGS = [f"<{slash}{name}>" for name in ("think", "search", "information", "answer") for slash in ("", "/")]
CHAT_MARKS = {
    "<|system|>": "\n",
    "<|user|>": "Question:",
    "<|assistant|>": "\n\n",
    "<|tool|>": "<information>",
    "<|end|>": "</information>",
    "<tool_call>": "<search>",
    "</tool_call>": "</search>",
}
"""Tokens of the chat template, and what a policy of tags knows that each is like."""
CHAT_PIECES = ['{"name": "', "search", '", "arguments": {"', "query", '": "', '"}}']
"""Of a call; the pieces that a tokenizer of common text has anyway."""
CHAT_TEMPLATE = """\
{%- set system = messages[0].content if messages[0].role == "system" else "" %}
{%- if system or tools %}<|system|>{{ system }}
{%- if tools %}{{ " " if system }}Tools:
{%- for tool in tools %} {{ tool.function.name }}({{ tool.function.parameters.properties | join(", ") }})
{%- endfor %}{% endif %}<|end|>{% endif %}
{%- for message in messages if message.role != "system" %}<|{{ message.role }}|>{{ message.content or "" }}
{%- for call in message.tool_calls or [] -%}
<tool_call>{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}</tool_call>
{%- endfor %}<|end|>{% endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}
"""
"""Tools are announced by their names and the names of their arguments: longer words would be lost on this policy."""
ANSWER = ["<answer>", "</answer>"]
MARKERS = [f'Doc {k}(Title: "' for k in range(1, TOP_K + 1)]
CONTEXT_TOKENS = 512
ROPE_THETA = 10000.0


def train_tokenizer(texts: list[str], vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the corpus and the questions; tags and passage markers are single tokens.

    The tags are added but not special, so that they survive in decoded text, where the protocol reads them.

    Args:
        texts: What it is trained on.
        vocabulary: Number of its tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(TAGS) - len(MARKERS),
        special_tokens=[EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _completed(tokenizer, [*TAGS, *MARKERS], EOS)


def chat_tokenizer(of_tags: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The same pieces of words, with tokens of a chat template in the place of tags, and the template.

    Args:
        of_tags: Made by `train_tokenizer`.
    """
    written = json.loads(of_tags.backend_tokenizer.to_str())
    written["added_tokens"] = [one for one in written["added_tokens"] if one["content"] in (EOS, PAD)]
    tokenizer = _completed(
        Tokenizer.from_str(json.dumps(written)), [*CHAT_MARKS, *CHAT_PIECES, *ANSWER, *MARKERS], CHAT_END
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _completed(tokenizer: Tokenizer, added: list[str], end: str) -> PreTrainedTokenizerFast:
    special = [text.startswith("<|") for text in added]  # the others survive where special tokens are left out
    tokens = zip(added, special, strict=True)
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=is_special) for text, is_special in tokens])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=end,
        pad_token=PAD,
        padding_side="left",
        model_max_length=CONTEXT_TOKENS,
        clean_up_tokenization_spaces=False,
    )


def name_pieces(tokenizer: PreTrainedTokenizerFast) -> tuple[list[str], list[str]]:
    """Vocabulary pieces that begin a word with a capital letter, and those that go on a word."""
    heads, tails = [], []
    for piece in tokenizer.get_vocab().keys() - tokenizer.get_added_vocab().keys():
        text = tokenizer.convert_tokens_to_string([piece])
        if text[1:].isalpha() and text.startswith(" ") and text[1].isupper():
            heads.append(text[1:])
        elif text.isalpha() and text.islower() and len(text) > 1:
            tails.append(text)
    return sorted(heads), sorted(tails)


@torch.no_grad()
def copy_embeddings(model: LlamaForCausalLM, old: LlamaForCausalLM, tokenizers: Tokenizers) -> None:
    """Give each token the embedding that it had, or the mean of what `CHAT_MARKS` calls like it.

    Args:
        model: Its embeddings are set.
        old: The policy of tags.
        tokenizers: Of the policy of tags, and of the model.
    """
    known, rows = old.model.embed_tokens.weight, model.model.embed_tokens.weight
    for text, token in tokenizers[1].get_vocab().items():
        before = tokenizers[0].get_vocab().get(text)
        like = tokenizers[0].encode(CHAT_MARKS.get(text, text)) if before is None else [before]
        rows[token] = known[like].mean(0)


def ordinary_tokens(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Ids of all tokens but special ones, tags and markers."""
    unusual = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    return [token for token in range(len(tokenizer)) if token not in unusual]


def new_policy(tokenizer: PreTrainedTokenizerFast, hidden: int = 128, layers: int = 4) -> LlamaForCausalLM:
    """A Llama with tied embeddings, by default of 1.7 M parameters; `torch.manual_seed` decides its weights."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
    )
    return LlamaForCausalLM(config)

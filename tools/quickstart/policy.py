"""The start policy's tokenizer and architecture."""

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from retrieval import TOP_K

VOCABULARY = 8192
EOS, PAD = "<|endoftext|>", "<|pad|>"
TAGS = [f"<{slash}{name}>" for name in ("think", "search", "information", "answer") for slash in ("", "/")]
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
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in (*TAGS, *MARKERS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=PAD,
        padding_side="left",
        model_max_length=CONTEXT_TOKENS,
        clean_up_tokenization_spaces=False,
    )


def name_pieces(tokenizer: PreTrainedTokenizerFast) -> tuple[list[str], list[str]]:
    """Vocabulary pieces that begin a word with a capital letter, and those that go on a word."""
    heads, tails = [], []
    for piece in tokenizer.get_vocab():
        text = tokenizer.convert_tokens_to_string([piece])
        if text[1:].isalpha() and text.startswith(" ") and text[1].isupper():
            heads.append(text[1:])
        elif text.isalpha() and text.islower() and len(text) > 1:
            tails.append(text)
    return sorted(heads), sorted(tails)


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

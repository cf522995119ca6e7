"""The policy's tokenizer: owned by the module, used by everyone."""

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from llds.errors import ConfigurationError
from llds.paths import resolve_path


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder.

    Raises:
        ConfigurationError: If there is none, or it lacks the end-of-sequence token.
    """
    folder = resolve_path(path)
    if not folder.is_dir():
        raise ConfigurationError(
            f"Expected `model.policy` to be a folder with a transformers model and its tokenizer, got {folder}, which "
            "does not exist. Give the path of a downloaded model, or `llds:quickstart/policy`, which ships with llds."
        )
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if tokenizer.eos_token_id is None:
        raise ConfigurationError(f"Expected the tokenizer in {folder} to have an end-of-sequence token, got none.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer

"""The policy's tokenizer: owned by the module, used by everyone."""

from typing import cast

from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from llds.errors import ConfigurationError
from llds.files import FROM_FOLDER, errors_of_folder, model_folder
from llds.paths import where_looked
from llds.strategies import whole_shape

_TOO_LONG = "sequence-length-is-longer-than-the-specified-maximum"


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder.

    Args:
        path: Folder in the format of transformers (``llds:...`` for one inside the package), or a name on the hub.

    Raises:
        ConfigurationError: If there is none, or it lacks the end-of-sequence token.
    """
    folder = model_folder(path, "model.policy")
    advice = (
        "Give the path of a model's folder, its name on the hub (OWNER/NAME), or `llds:quickstart/policy`, which ships "
        "with llds."
    )
    expected = "Expected `model.policy` to be a folder with a transformers model and its tokenizer, got"
    if not folder.is_dir():
        raise ConfigurationError(f"{expected} {folder}, which does not exist. {where_looked(folder)}{advice}")
    with errors_of_folder(expected, folder, advice):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, **FROM_FOLDER)
    if tokenizer.eos_token_id is None:
        raise ConfigurationError(
            f"Expected the tokenizer in {folder} to have an end-of-sequence token, got none. "
            "Set `eos_token` in its tokenizer_config.json."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.deprecation_warnings[_TOO_LONG] = True  # as if it had warned already: what is too long is cut or refused
    return tokenizer


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, path: str) -> None:
    """Refuse a tokenizer with tokens that the model has no embedding for.

    Args:
        tokenizer: The policy's tokenizer.
        model: The policy.
        path: Its folder, for the message.

    Raises:
        ConfigurationError: Naming both sizes.
    """
    rows = whole_shape(cast(Tensor, model.get_input_embeddings().weight))[0]
    if len(tokenizer) > rows:
        raise ConfigurationError(
            f"Expected the tokenizer of `model.policy` {path} to have at most {rows} tokens, one for each embedding of "
            f"the model, got {len(tokenizer)}. Use the tokenizer that the model was trained with."
        )

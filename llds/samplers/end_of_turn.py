"""The tokens that end a turn: where the model would stop on its own, so that an action ends there too."""

from pathlib import Path

from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerBase

from llds.files import FROM_FOLDER


def end_of_turn_ids(settings: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Ids of the tokens that end a turn, ascending.

    Many chat models end their turns with another token than the tokenizer's end-of-sequence token (Gemma's
    ``<end_of_turn>``, Llama 3's ``<|eot_id|>``, Phi-3's ``<|end|>``), which only the generation settings name.

    Args:
        settings: The model's generation settings.
        tokenizer: Its own end-of-sequence token ends a turn, too.
    """
    named = settings.eos_token_id if settings is not None else None
    ids = {tokenizer.eos_token_id, *([named] if isinstance(named, int) else named or ())}
    return tuple(sorted(one for one in ids if one is not None))


def saved_settings(folder: Path) -> GenerationConfig:
    """The generation settings of a model folder, or those that follow from its config.json where it has none."""
    if (folder / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(folder, local_files_only=True)
    return GenerationConfig.from_model_config(AutoConfig.from_pretrained(folder, **FROM_FOLDER))

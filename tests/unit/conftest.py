"""A way to write data files, and a real, small byte-level tokenizer with tags that are tokens of their own."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

LINES = ["<think> What is the capital of Norway? </think> <search> capital of Norway </search>."] * 4


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., str]:
    def write(*rows: Any, name: str = "questions.jsonl") -> str:
        text = "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return str(path)

    return write


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    model.train_from_iterator(LINES, trainer)
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, **special)
    tokenizer.add_tokens([AddedToken("<|im_end|>", special=True)])  # special, yet not one of `all_special_ids`
    tokenizer.add_tokens(["</answer>", "<search>"])  # tags that are single tokens, as some models have them
    return tokenizer

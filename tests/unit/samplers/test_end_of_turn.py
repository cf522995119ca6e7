"""Where a turn ends, by what published models say."""

import asyncio
import json
from pathlib import Path

import pytest
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config

from llds.samplers import SampleRequest, TransformersSampler
from llds.samplers.end_of_turn import end_of_turn_ids, saved_settings
from llds.types import SamplingParams
from tests.tiny_policy import chain_policy

# generation_config.json as published: Llama-3-8B-Instruct, gemma-2-2b-it, Phi-3-mini, Qwen2.5, SmolLM2
PUBLISHED = [
    ('{"bos_token_id": 128000, "eos_token_id": [128001, 128009], "temperature": 0.6}', (0, 128001, 128009)),
    ('{"eos_token_id": [1, 107], "cache_implementation": "hybrid"}', (0, 1, 107)),
    ('{"eos_token_id": [32000, 32001, 32007], "pad_token_id": 32000}', (0, 32000, 32001, 32007)),
    ('{"eos_token_id": [151645, 151643], "repetition_penalty": 1.1}', (0, 151643, 151645)),
    ('{"eos_token_id": 2, "pad_token_id": 2}', (0, 2)),
    ('{"do_sample": false, "temperature": 0.9}', (0,)),
]


class Tokenizer:
    """Knows one token that ends."""

    eos_token_id = 0


@pytest.mark.parametrize(("text", "expected"), PUBLISHED)
def test_every_id_that_the_model_names_ends_a_turn_and_the_tokenizers_own(
    tmp_path: Path, text: str, expected: tuple[int, ...]
) -> None:
    (tmp_path / "generation_config.json").write_text(text)
    assert end_of_turn_ids(saved_settings(tmp_path), Tokenizer()) == expected  # type: ignore[arg-type]


def test_without_generation_settings_the_models_own_configuration_counts(tmp_path: Path) -> None:
    Qwen2Config(eos_token_id=[3, 4]).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["eos_token_id"] == [3, 4]
    assert end_of_turn_ids(saved_settings(tmp_path), Tokenizer()) == (0, 3, 4)  # type: ignore[arg-type]
    assert end_of_turn_ids(None, Tokenizer()) == (0,)  # type: ignore[arg-type]


def test_an_action_ends_at_a_chat_models_end_of_turn(tokenizer: PreTrainedTokenizerFast) -> None:
    likely = {"a": {"<|im_end|>": 30.0}, "<|im_end|>": {"b": 30.0}, "b": {"b": 30.0}}
    model = chain_policy(tokenizer, likely)
    ends = {"its end of turn": ([tokenizer.convert_tokens_to_ids("<|im_end|>")], 1, "eos"), "none": (None, 6, "length")}
    for ids, tokens, reason in ends.values():
        model.generation_config = GenerationConfig(eos_token_id=ids)
        sampler = TransformersSampler()
        sampler.attach(model, tokenizer)
        start = tokenizer.convert_tokens_to_ids("a")
        law = SamplingParams(temperature=0.0)
        done = asyncio.run(sampler.sample(SampleRequest(0, [start], 6, ("</answer>",), law, (0,))))
        sampler.close()
        assert (len(done.token_ids), done.stop_reason) == (tokens, reason)

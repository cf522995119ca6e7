"""The components of the estimate against bytes that were counted on small models."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
    PreTrainedConfig,
    Qwen2Config,
)

from llds.errors import ConfigurationError
from llds.strategies.memory import (
    SLEEPING_BYTES,
    Setting,
    activations,
    adapter_parameters,
    key_value_cache,
    load,
    parameters,
    peak,
    states,
    trainer,
)

SHAPE: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 320,
}  # fmt: skip
CONFIGS = [Qwen2Config(**SHAPE, tie_word_embeddings=True), Qwen2Config(**SHAPE), LlamaConfig(**SHAPE)]


def model_of(config: PreTrainedConfig) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).train()


@pytest.mark.parametrize("config", CONFIGS, ids=["tied", "untied", "llama"])
def test_parameters_are_counted_exactly(config: PreTrainedConfig) -> None:
    assert parameters(config) == sum(value.numel() for value in model_of(config).parameters())


@pytest.mark.parametrize(("name", "billions"), [("3B", 3.09), ("7B", 7.62), ("32B", 32.76)])
def test_the_shapes_of_qwen_have_as_many_parameters_as_their_cards_say(name: str, billions: float) -> None:
    assert parameters(load(name)) / 1e9 == pytest.approx(billions, abs=0.01)


def test_whole_states_are_those_of_adamw() -> None:
    model = model_of(CONFIGS[1])
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.arange(8)[None]).logits.sum().backward()
    optimizer.step()
    moments = sum(value.nbytes for state in optimizer.state.values() for name, value in state.items() if name != "step")
    found = states(CONFIGS[1], Setting(gpus=1, strategy="ddp", has_reference=False))
    assert found["policy"] == sum(value.nbytes for value in model.parameters())
    assert found["gradients"] == sum(value.grad.nbytes for value in model.parameters())
    assert found["optimizer"] == moments


@pytest.mark.parametrize("config", CONFIGS, ids=["tied", "untied", "llama"])
def test_adapters_are_counted_exactly(config: PreTrainedConfig) -> None:
    adapted = get_peft_model(model_of(config), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    counted = sum(value.numel() for value in adapted.parameters() if value.requires_grad)
    assert adapter_parameters(config, 4) == counted
    one = Setting(gpus=1, strategy="ddp", lora_rank=4, has_reference=False)
    found = trainer(config, one)
    assert (found["optimizer"], found["gradients"], found["head gradient"]) == (8 * counted, 4 * counted, 0)
    assert found["policy"] == 2 * parameters(config) + 4 * counted


def test_the_step_copies_the_gradient_and_what_shares_a_gpu_counts() -> None:
    config, setting = load("3B"), Setting(gpus=8)
    found = trainer(config, setting)
    assert found["step"] == pytest.approx(4 * parameters(config) / 8)
    assert trainer(config, replace(setting, gpus=1))["step"] == 4e9  # DeepSpeed steps on at most 1e9 at a time
    assert trainer(config, replace(setting, offload_optimizer=True))["step"] == 0
    shared = trainer(config, replace(setting, shares_gpus=True))
    assert shared["IPC buffer"] == 2 * 151_936 * 2048  # the embeddings are larger than a message
    assert peak(shared) - peak(found) == SLEEPING_BYTES  # the buffer is not there in a backward pass


def test_the_worst_moment_is_not_the_sum_of_all() -> None:
    found = trainer(load("3B"), Setting(rows=1, tokens=64))
    passing = found["gathered"] + found["head gradient"] + found["activations"]
    assert peak(found) == pytest.approx(sum(found.values()) - min(passing, found["step"]))


def test_keys_and_values_are_counted_exactly() -> None:
    cache = model_of(CONFIGS[1])(torch.zeros(2, 10, dtype=torch.long), use_cache=True).past_key_values
    measured = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert key_value_cache(CONFIGS[1], sampled=2, tokens=10, element_bytes=4) == measured


def test_activations_are_about_what_autograd_keeps() -> None:
    """Inputs of all layers, and what one of them keeps when it is computed again."""
    config = Qwen2Config(**SHAPE, tie_word_embeddings=True)
    rows, tokens = 4, 512
    model = model_of(config)
    ids = torch.zeros(rows, tokens, dtype=torch.long)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    inputs = kept_bytes(model, lambda: model.model(ids, use_cache=False).last_hidden_state.sum())
    layer, hidden = model.model.layers[0], torch.zeros(rows, tokens, config.hidden_size, requires_grad=True)
    model.gradient_checkpointing_disable()
    positions = model.model.rotary_emb(hidden, torch.arange(tokens)[None])
    one = kept_bytes(model, lambda: layer(hidden, position_embeddings=positions).sum())
    setting = Setting(rows=rows, tokens=tokens, weight_bytes=4)
    tiles = activations(replace_layers(config, 0), replace(setting, rows=0))
    estimate = activations(config, setting) - tiles - 8.0 * rows * tokens * config.hidden_size
    print(f"measured {(inputs + one) / 1e6:.2f} MB, estimated {estimate / 1e6:.2f} MB")  # shown by pytest -s
    assert estimate == pytest.approx(inputs + one, rel=0.2)


def replace_layers(config: PreTrainedConfig, layers: int) -> PreTrainedConfig:
    """The same model with another depth."""
    return type(config)(**(config.to_dict() | {"num_hidden_layers": layers, "layer_types": None}))


def kept_bytes(model: Any, forward: Any) -> int:
    """Bytes that autograd keeps for the backward, each storage once, parameters left out."""
    own = {value.untyped_storage().data_ptr() for value in model.parameters()}
    seen: dict[int, int] = {}

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        held.append(value)
        return value

    held: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        forward()
    return sum(seen.values())


def test_a_folder_gives_what_its_config_says(tmp_path: Path) -> None:
    CONFIGS[2].save_pretrained(tmp_path)
    assert parameters(load(str(tmp_path))) == parameters(CONFIGS[2])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "which has none. Check the path"),
        (MixtralConfig(**SHAPE), r"a mixtral with experts \(`num_experts`\)"),
        (GPT2Config(), "a gpt2 without intermediate_size"),
        (BertConfig(), "a bert without num_key_value_heads"),
    ],
)
def test_what_the_formulas_do_not_count_is_refused(
    config: PreTrainedConfig | None, message: str, tmp_path: Path
) -> None:
    if config is not None:
        config.save_pretrained(tmp_path)
    with pytest.raises(ConfigurationError, match=message):
        load(str(tmp_path))

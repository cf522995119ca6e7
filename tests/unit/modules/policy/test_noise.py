"""A policy is the same in training and in evaluation, whatever noise its model brings."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM

from llds.batches import collate
from llds.errors import ConfigurationError
from llds.modules import LoRA, Policy
from llds.modules.policy.tokenizer import load_tokenizer
from tests.trajectories import random_trajectories

TOKENIZER = load_tokenizer("llds:quickstart/policy")
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}


def save_model(folder: Path, kind: str, **settings: Any) -> str:
    """A small random model of some kind, in a folder."""
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(TOKENIZER),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=TOKENIZER.eos_token_id,
        **settings,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("kind", "noise", "settings"),
    [
        ("Qwen2", {"attention_dropout": 0.2}, {}),
        ("Qwen2", {"attention_dropout": 0.2}, {"attention": "eager", "gradient_checkpointing": True}),
        ("Mistral", {"head_dim": 8, "sliding_window": 8, "attention_dropout": 0.2}, {}),
        ("Starcoder2", {"attention_dropout": 0.1, "residual_dropout": 0.1, "embedding_dropout": 0.1}, {}),
        ("Mixtral", {**EXPERTS, "router_jitter_noise": 0.1}, {}),
        ("Phimoe", {**EXPERTS, "router_jitter_noise": 0.01, "input_jitter_noise": 0.01}, {}),
    ],
)
@torch.no_grad()
def test_log_probs_are_equal_in_training_and_in_evaluation(
    tmp_path: Path, kind: str, noise: dict[str, Any], settings: dict[str, Any]
) -> None:
    policy = Policy(save_model(tmp_path, kind, **noise), **settings)
    batch = collate(random_trajectories())
    trained = policy.train()(batch).log_probs
    with policy.evaluating():
        assert torch.equal(trained, policy(batch).log_probs)


def test_an_export_says_what_the_model_said(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", "Mixtral", **EXPERTS, router_jitter_noise=0.1, output_router_logits=True)
    policy = Policy(folder)
    assert policy.base_model.config.output_router_logits is False
    policy.save_pretrained(tmp_path / "out", TOKENIZER)
    saved = AutoConfig.from_pretrained(tmp_path / "out")
    assert (saved.router_jitter_noise, saved.output_router_logits) == (0.1, True)
    assert policy.base_model.config.router_jitter_noise == 0.0


@torch.no_grad()
def test_a_model_that_asks_for_router_logits_generates(tmp_path: Path) -> None:
    model = Policy(save_model(tmp_path, "Mixtral", **EXPERTS, output_router_logits=True)).base_model
    assert model.generate(torch.tensor([[5, 6], [7, 8]]), max_new_tokens=3, do_sample=False).shape == (2, 5)


def test_weights_as_saved_are_those_of_the_files(tmp_path: Path) -> None:
    policy = Policy(save_model(tmp_path, "Mixtral", **EXPERTS))
    saved = dict(policy.weights(as_saved=True))
    assert "model.layers.0.mlp.experts.gate_up_proj" in dict(policy.weights()).keys() - saved.keys()
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert saved.keys() == set(file.keys())
        assert all(torch.equal(value, file.get_tensor(name)) for name, value in saved.items())


def test_adapters_with_which_a_model_does_not_run_are_refused_by_their_key(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "Phimoe", **EXPERTS)
    with pytest.raises(ConfigurationError, match=r"`model\.lora\.target_modules`.*PhimoeForCausalLM does not run"):
        Policy(folder, lora=LoRA(rank=2))

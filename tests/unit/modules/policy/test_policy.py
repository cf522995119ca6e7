"""The policy's log-probabilities are those of a plain forward, and its folder loads in plain transformers."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    Qwen3MoeConfig,
)

from llds.batches.policy_batch import collate
from llds.errors import ConfigurationError
from llds.modules import LoRA, Policy
from llds.paths import resolve_path
from tests.trajectories import random_trajectories

POLICY = "llds:quickstart/policy"


def plain_log_probs(model: torch.nn.Module, ids: list[int], temperature: float = 1.0) -> torch.Tensor:
    """Log-probability of each token given those before it; 0 for the first. One row, no padding, full logits."""
    logits = model(input_ids=torch.tensor([ids])).logits[0, :-1] / temperature
    picked = logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    return torch.cat([picked.new_zeros(1), picked])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@torch.no_grad()
def test_log_probs_equal_those_of_full_logits_on_each_row_alone(temperature: float) -> None:
    policy = Policy(POLICY, "float64")
    trajectories = random_trajectories()
    batch = collate(trajectories)
    output = policy(batch, temperature)
    for row, trajectory in enumerate(trajectories):
        ids = trajectory.token_ids
        expected = plain_log_probs(policy.model, ids, temperature)
        mask = torch.tensor(trajectory.action_index) >= 0
        assert (output.log_probs[row, : len(ids)] - torch.where(mask, expected, 0)).abs().max() <= 1e-10
        assert output.log_probs[row, len(ids) :].eq(0).all()


def test_equal_actions_after_equal_beginnings_meet_the_vocabulary_once() -> None:
    trajectories = random_trajectories(2, 2)
    trajectories += trajectories[:1]  # one was sampled twice,
    trajectories.append(replace(trajectories[2], turns=[trajectories[2].turns[0], trajectories[0].turns[1]]))
    batch = collate(trajectories)  # and two begin alike
    weights = torch.randn(batch.input_ids.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    distinct = {
        tuple(trajectory.token_ids[: place + 1])
        for trajectory in trajectories
        for place, turn in enumerate(trajectory.action_index)
        if turn >= 0
    }
    found = []
    for shares in (True, False):
        policy = Policy(POLICY, "float64", share_prefixes=shares)
        states: list[int] = []
        policy.head.register_forward_hook(lambda _, given, __, states=states: states.append(len(given[0])))
        output = policy(batch)
        (output.log_probs * weights).sum().backward()
        gradient = torch.cat([value.grad.flatten() for value in policy.parameters() if value.grad is not None])
        found.append((output, gradient))
        assert states == [len(distinct) if shares else int(batch.action_mask.sum())]
    (shared, gradient), (padded, expected) = found
    assert len(distinct) < int(batch.action_mask.sum())
    for one, other in zip(shared[:2], padded[:2], strict=True):
        assert (one - other).abs().max() <= 1e-6  # the model's norms compute in fp32, whatever its weights are
    assert float((gradient - expected).norm() / expected.norm()) <= 1e-6


@torch.no_grad()
def test_entropy_is_that_of_the_distribution_at_each_action_token() -> None:
    policy = Policy(POLICY, "float64")
    trajectory = random_trajectories(1, 2)[0]
    output = policy(collate([trajectory]))
    log_p = policy.model(input_ids=torch.tensor([trajectory.token_ids])).logits[0].log_softmax(-1)
    entropy = torch.cat([log_p.new_zeros(1), -(log_p.exp() * log_p).sum(-1)[:-1]])
    mask = torch.tensor(trajectory.action_index) >= 0
    assert (output.entropy[0] - torch.where(mask, entropy, 0)).abs().max() <= 1e-10


def test_a_saved_policy_loads_in_plain_transformers_with_the_same_logits(tmp_path: Path) -> None:
    policy = Policy(POLICY)
    policy.save_pretrained(tmp_path, AutoTokenizer.from_pretrained(resolve_path(POLICY)))
    ids = torch.tensor([[5, 6, 7, 8]])
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, policy.model(ids).logits)
    assert AutoTokenizer.from_pretrained(tmp_path).encode("Question: x") == AutoTokenizer.from_pretrained(
        resolve_path(POLICY)
    ).encode("Question: x")


def test_lora_trains_adapters_only_and_its_reference_is_the_model_without_them(tmp_path: Path) -> None:
    plain, policy = Policy(POLICY), Policy(POLICY, lora=LoRA(rank=4))
    trainable = {name for name, value in policy.named_parameters() if value.requires_grad}
    assert trainable
    assert all("lora_" in name for name in trainable)
    moved_adapters(policy)
    batch = collate(random_trajectories())
    with torch.no_grad():
        base = plain(batch).log_probs
        assert (policy(batch).log_probs - base).abs().max() > 1e-3
        with policy.without_adapter():
            assert torch.equal(policy(batch).log_probs, base)
    policy.save_pretrained(tmp_path, AutoTokenizer.from_pretrained(resolve_path(POLICY)))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, policy.model(ids).logits, atol=1e-4, rtol=1e-4)
        assert (merged(ids).logits - plain.model(ids).logits).abs().max() > 1e-2


def test_gradient_checkpointing_changes_no_gradient() -> None:
    batch = collate(random_trajectories())
    gradients = []
    for recompute in (False, True):
        policy = Policy(POLICY, "float64", gradient_checkpointing=recompute)
        policy(batch).log_probs.sum().backward()
        gradients.append(torch.cat([value.grad.flatten() for value in policy.parameters() if value.grad is not None]))
    assert torch.allclose(*gradients, rtol=0, atol=1e-12)


@pytest.mark.parametrize("lora", [None, LoRA(rank=2)])
def test_weights_are_the_checkpoint_of_the_model_with_tied_ones_once(lora: LoRA | None) -> None:
    policy = Policy(POLICY, lora=lora)
    names = [name for name, _ in policy.weights()]
    assert len(names) == len(set(names))
    with safe_open(resolve_path(POLICY) / "model.safetensors", "pt") as file:
        assert set(names) == set(file.keys())
        assert all(torch.equal(value, file.get_tensor(name).float()) for name, value in policy.weights())


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"`model\.policy`.*config\.json"):
        Policy(str(tmp_path))


def test_a_model_with_capped_logits_is_refused_and_without_the_cap_is_not(tmp_path: Path) -> None:
    for cap in (30.0, None):
        sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8}
        heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
        config = Gemma2Config(vocab_size=32, final_logit_softcapping=cap, **sizes, **heads)
        Gemma2ForCausalLM(config).save_pretrained(tmp_path)
        if cap is None:
            Policy(str(tmp_path), attention="eager")
        else:
            with pytest.raises(
                ConfigurationError,
                match=r"`model\.policy`.*Gemma2.*caps its logits softly \(`final_logit_softcapping` 30\)",
            ):
                Policy(str(tmp_path), attention="eager")


def test_a_folder_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    weights = dict(Policy(POLICY).weights())
    del weights["model.norm.weight"]
    Policy(POLICY).base_model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(ConfigurationError, match=r"lacks 1 weights \(model\.norm\.weight\)"):
        Policy(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(ConfigurationError, match="does not load"):
        Policy(str(tmp_path))


def test_the_policy_is_in_training_mode_without_dropout_and_evaluates_for_a_while(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=32, n_embd=16, n_layer=1, n_head=2, resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    policy = Policy(str(tmp_path))
    assert all(module.training for module in policy.modules())
    batch = collate(random_trajectories(vocabulary=32))
    assert torch.equal(policy(batch).log_probs, policy(batch).log_probs)
    with policy.evaluating():
        assert not any(module.training for module in policy.modules())
    assert all(module.training for module in policy.modules())


@pytest.mark.parametrize("targets", [["q_proj", "lm_head"], ["embed_tokens", "q_proj"], ["nothing"]])
def test_adapters_on_the_head_the_embeddings_or_nothing_are_refused(targets: list[str]) -> None:
    with pytest.raises(ConfigurationError, match=r"model\.lora\.target_modules"):
        Policy(POLICY, lora=LoRA(rank=2, target_modules=targets))


def test_saving_leaves_the_weights_of_a_lora_policy_as_they_are(tmp_path: Path) -> None:
    policy = moved_adapters(Policy(POLICY, lora=LoRA(rank=4)))
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    policy.save_pretrained(tmp_path, AutoTokenizer.from_pretrained(resolve_path(POLICY)))
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())


def moved_adapters(policy: Policy) -> Policy:
    """The policy with adapters that are not zero."""
    with torch.no_grad():
        for name, value in policy.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.1)
    return policy


def test_an_export_keeps_generation_settings_that_transformers_refuses_to_write(tmp_path: Path) -> None:
    settings = {"temperature": 0.9, "top_p": 0.6, "do_sample": False, "eos_token_id": 2}  # as some publish them
    shutil.copytree(resolve_path(POLICY), tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps(settings))
    Policy(str(tmp_path / "model")).save_pretrained(tmp_path / "out", AutoTokenizer.from_pretrained(tmp_path / "model"))
    written = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert {key: written[key] for key in settings} == settings
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


@torch.no_grad()
def test_adapters_of_fused_experts_are_merged_where_plain_transformers_has_the_experts(tmp_path: Path) -> None:
    config = Qwen3MoeConfig(
        vocab_size=8192, hidden_size=64, intermediate_size=64, moe_intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, head_dim=32, num_experts=4, num_experts_per_tok=2,
        initializer_range=0.2, bos_token_id=None, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    policy = Policy(str(tmp_path / "model"), lora=LoRA(rank=4, alpha=8))
    for parameter in policy.parameters():
        if parameter.requires_grad:
            parameter.normal_(0, 0.3)
    assert any("experts" in name and parameter.requires_grad for name, parameter in policy.named_parameters())
    tokenizer = AutoTokenizer.from_pretrained(resolve_path(POLICY))
    policy.save_pretrained(tmp_path / "out", tokenizer)
    ids = torch.randint(10, 900, (1, 30))
    plain, start = (AutoModelForCausalLM.from_pretrained(tmp_path / name).eval() for name in ("out", "model"))
    with policy.evaluating():
        trained = policy.base_model(input_ids=ids).logits
    torch.testing.assert_close(plain(input_ids=ids).logits, trained, atol=1e-4, rtol=0)
    assert (start(input_ids=ids).logits - trained).abs().max() > 0.5

"""What a model's configuration forbids is refused with both numbers: lengths, attention, experts under ZeRO-3, bf16."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import LlamaConfig, Phi3Config

from llds.errors import ConfigurationError
from llds.modules.policy.partitioned_loading import check_attention, load_partitioned
from llds.modules.policy.positions import check_positions
from llds.modules.policy.rounding import moving_share, warn_of_rounding
from tests.unit.modules.policy.test_noise import EXPERTS, save_model

KEY = "rollout.limits.total_tokens"


def llama(rope: dict[str, Any] | None = None, **settings: Any) -> LlamaConfig:
    parameters = {"rope_type": "default", "rope_theta": 1e4} | (rope or {})
    return LlamaConfig(max_position_embeddings=512, rope_parameters=parameters, **settings)


@pytest.mark.parametrize(
    ("rope", "most"),
    [
        ({}, 512),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}, 1024),
        ({"rope_type": "linear", "factor": 2.0}, 1024),
        ({"rope_type": "dynamic", "factor": 4.0}, 512),
    ],
)
def test_a_trajectory_is_at_most_as_long_as_the_positions(rope: dict[str, Any], most: int) -> None:
    check_positions(llama(rope), "M", KEY, most)
    with pytest.raises(ConfigurationError, match=rf"`rollout\.limits\.total_tokens` to be at most {most}.*{most + 1}"):
        check_positions(llama(rope), "M", KEY, most + 1)


def test_where_the_prompt_must_be_shorter_too_it_is_said_at_once() -> None:
    for prompt_tokens, advice in ((512, r"max_prompt_tokens` \(512\) below it; or"), (511, r"got 4096\. Lower it; or")):
        with pytest.raises(ConfigurationError, match=advice):
            check_positions(llama(), "M", KEY, 4096, prompt_tokens)


def test_positions_that_go_by_the_longest_row_are_refused_from_where_they_change() -> None:
    factors = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    config = Phi3Config(
        hidden_size=64, num_attention_heads=4, max_position_embeddings=512, original_max_position_embeddings=128,
        rope_parameters={"rope_type": "longrope", "rope_theta": 1e4, **factors}, pad_token_id=None,
    )  # fmt: skip
    check_positions(config, "M", KEY, 128)
    with pytest.raises(ConfigurationError, match=r"at most 128, got 129: M has longrope positions, which change"):
        check_positions(config, "M", KEY, 129)


def test_a_model_without_positions_has_no_limit() -> None:
    check_positions(transformers.MambaConfig(), "M", KEY, 10**6)


def test_an_attention_that_a_model_lacks_is_refused_by_its_key() -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = transformers.GptOssConfig(**sizes, num_local_experts=2, head_dim=8)
    refused = r"`model\.attention` .* that gpt_oss models have here, got sdpa: .* yet\. Use eager, which"
    with pytest.raises(ConfigurationError, match=refused):
        check_attention(config, "sdpa")
    check_attention(config, "eager")
    with pytest.raises(ConfigurationError, match=r"`model\.attention` .* got flash_attention_2: .*Use sdpa, or eager"):
        check_attention(llama(), "flash_attention_2")


@pytest.mark.slow
def test_experts_are_refused_under_zero3_with_the_true_reason(tmp_path: Path) -> None:
    folder = Path(save_model(tmp_path, "Mixtral", **EXPERTS))
    with pytest.raises(ConfigurationError, match=r"MixtralForCausalLM fuses .* tensors of its files .*trainer/ddp"):
        load_partitioned(folder, torch.float32, "sdpa", nullcontext)


def test_a_step_that_bfloat16_rounds_away_is_warned_of() -> None:
    weights = torch.tensor([0.02, 1e-5], dtype=torch.bfloat16)
    # Neighbors of 0.02 are 1.2e-4 apart: a step of 1e-6 is lost; those of 1e-5 are 7.5e-8 apart.
    assert moving_share(weights, 1e-6) == 0.5
    assert moving_share(weights.float(), 1e-6) == 1.0
    policy = nn.Linear(8, 8, bias=False)
    nn.init.constant_(policy.weight, 0.02)
    policy.to(torch.bfloat16)
    with pytest.warns(UserWarning, match=r"learning_rate` 1e-06 moves 0\.00% of them.*`model\.dtype` float32"):
        warn_of_rounding(policy, 1e-6, has_master=False)


def test_a_step_that_is_taken_is_not_warned_of(recwarn: pytest.WarningsRecorder) -> None:
    policy = nn.Linear(8, 8).to(torch.bfloat16)
    warn_of_rounding(policy, 1.0, has_master=False)
    warn_of_rounding(policy, 1e-9, has_master=True)
    warn_of_rounding(policy.float(), 1e-9, has_master=False)
    assert not recwarn.list

"""The policy's check at the start finds what would spoil a run, and passes what is sound."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llds.callbacks import PolicyCheck
from llds.errors import ConfigurationError
from llds.modules import LoRA, Policy
from llds.modules.policy.tokenizer import load_tokenizer
from llds.modules.policy_trial import PolicyTrial
from tests.runs import make_run, tiny_policy

CPU = torch.device("cpu")


class Faulty(Policy):
    """A policy with something wrong in its hidden states, or in what it exports."""

    fault = ""

    def _scaled(self, hidden: Tensor) -> Tensor:
        if self.fault == "mode" and self.training:
            return hidden * 1.01
        if self.fault == "neighbor" and len(hidden) > 24:
            return hidden * 1.01
        return hidden

    def weights(self, *, as_saved: bool = False) -> Iterator[tuple[str, Tensor]]:
        """With the fault."""
        for name, value in super().weights(as_saved=as_saved):
            yield (f"own.{name}" if self.fault == "name" and "norm" in name else name), value


def trial(fault: str = "", **settings: Any) -> PolicyTrial:
    policy = Faulty(tiny_policy(), **settings)
    policy.fault = fault
    return PolicyTrial(policy, load_tokenizer(tiny_policy()), "float32", nullcontext())


@pytest.mark.parametrize("lora", [None, LoRA(rank=2)])
def test_a_sound_policy_passes_and_leaves_nothing_behind(tmp_path: Path, lora: LoRA | None) -> None:
    checked = trial(lora=lora)
    assert checked.log_probs(CPU, 300) == 300
    assert checked.export(tmp_path, checked.shapes())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("mode", r"the same in training and in evaluation mode, got a difference of .*LlamaForCausalLM"),
        ("neighbor", r"48 tokens .* not to depend on the row beside it, .* one of 300 tokens .*total_tokens`: 300\)"),
    ],
)
def test_log_probs_that_depend_on_what_they_must_not_are_refused(fault: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{said}.*`policy_check\.enabled: false`"):
        trial(fault).log_probs(CPU, 300)


def test_weights_that_a_plain_model_does_not_know_are_refused(tmp_path: Path) -> None:
    checked = trial("name")
    with pytest.raises(ConfigurationError, match=r"3 that are missing .* and 3 unknown ones \(model\.layers\.0\.input"):
        checked.export(tmp_path, checked.shapes())


def test_an_export_that_plain_transformers_refuses_is_said_at_the_start(tmp_path: Path) -> None:
    checked = trial()
    checked._policy.base_model.config.vocab_size += 1
    with pytest.raises(ConfigurationError, match=r"`model\.policy`.*(load|names and shapes)"):
        checked.export(tmp_path, checked.shapes())


def test_a_random_layer_is_found_whatever_its_name(tmp_path: Path) -> None:
    class Rain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 0.1 * torch.randn_like(x) if self.training else x

    checked = trial()
    checked._policy.base_model.get_decoder().norm = nn.Sequential(checked._policy.base_model.get_decoder().norm, Rain())
    with pytest.raises(ConfigurationError, match="is random or differs while it trains"):
        checked.log_probs(CPU, 64)


@pytest.mark.slow
def test_a_run_says_what_was_checked_and_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checked, plain = (make_run(tmp_path / name, *one, iterations=1).fit() for name, one in
                      (("a", (PolicyCheck(),)), ("b", (PolicyCheck(enabled=False),))))  # fmt: skip
    assert "rows of up to 512 tokens do\nnot change each other, an export loads" in caplog.text
    assert all(torch.equal(value, plain.weights[name]) for name, value in checked.weights.items())

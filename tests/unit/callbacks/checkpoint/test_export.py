"""The trained policy loads in plain transformers."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llds.callbacks import ExportPolicy
from llds.modules import LoRA
from tests.runs import answers, make_run, scripted


@pytest.mark.parametrize("lora", [None, pytest.param(LoRA(rank=2), marks=pytest.mark.slow)])
def test_the_trained_policy_loads_in_plain_transformers(tmp_path: Path, lora: LoRA | None) -> None:
    run = make_run(tmp_path, ExportPolicy(), iterations=2, sampler=scripted(answers), module={"lora": lora}).fit()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "policy", dtype=torch.float32)
    prompt = run.data.template.encode(run.data.prompts["train"][0], run.module.tokenizer)
    ids = torch.tensor([prompt.prompt_ids])
    assert AutoTokenizer.from_pretrained(tmp_path / "policy").encode("a <search>") == run.module.tokenizer.encode(
        "a <search>"
    )
    with torch.no_grad(), run.module.policy.evaluating():
        expected = run.module.policy.model(ids).logits
        torch.testing.assert_close(model(ids).logits, expected, rtol=0, atol=0 if lora is None else 1e-5)
        initial = AutoModelForCausalLM.from_pretrained(run.module.policy_path, dtype=torch.float32)(ids).logits
        assert (expected - initial).abs().max() > 1e-4

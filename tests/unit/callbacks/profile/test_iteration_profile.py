"""The profile of a real run: its parts add up, its counts are those of the trajectories."""

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llds.batches.policy_batch import collate
from llds.batches.prefix_tree import PrefixTree
from llds.callbacks import IterationProfile
from llds.callbacks.profile.peak_memory import PeakMemory
from llds.callbacks.profile.roofline import PolicyCost, Roofline
from llds.errors import ConfigurationError
from llds.modules import LoRA, Optimization, Policy
from tests.runs import answers, make_run, scripted, tiny_policy
from tests.trajectories import random_trajectories


@pytest.mark.slow
def test_the_parts_of_a_run_add_up_and_the_tokens_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    profile = IterationProfile(warmup=1)
    whole = Optimization(learning_rate=1e-3, mini_batch_size=1, micro_batch_size=64)
    make_run(tmp_path, profile, iterations=3, sampler=scripted(answers), module={"optimization": whole}).fit()
    found = json.loads((tmp_path / "profile.json").read_text())
    assert [row["iteration"] for row in found["iterations"]] == [1, 2, 3]
    for row in found["iterations"]:
        parts = dict(row["seconds"])
        assert sum(parts.values()) == pytest.approx(2 * parts.pop("iteration"))
        assert min(parts.values()) >= -1e-6, parts
        assert min(parts[name] for name in ("scoring", "forward", "backward", "optimizer", "logging")) > 0
        assert set(row["peak_mib"]) == {"rollout", "scoring", "update", "logging"}
    first, *later = (row["tokens"] for row in found["iterations"])
    assert first["sampled"] > 0
    # Two groups may begin alike, and are in different steps. Before the first step the policy is its own reference.
    assert 0 < first["scoring tokens"] <= first["update tokens"]
    assert all(tokens["update tokens"] < tokens["scoring tokens"] <= 2 * tokens["update tokens"] for tokens in later)
    assert all(tokens["update predictions"] <= tokens["sampled"] for tokens in later)
    assert set(found["reached"]) == {"scoring", "forward", "backward", "optimizer"}
    assert "of the limit" in capsys.readouterr().out


@pytest.mark.parametrize("lora", [None, LoRA(rank=2)])
def test_operations_of_the_body_are_those_that_torch_counts(lora: LoRA | None) -> None:
    policy = Policy(tiny_policy(), lora=lora)
    cost = PolicyCost.of(policy)
    batch = collate(random_trajectories())
    tokens = len(PrefixTree.build(batch.input_ids, batch.lengths))

    def products(counter: FlopCounterMode) -> int:
        return sum(
            n for name, n in counter.get_flop_counts()["Global"].items() if str(name) in ("aten.mm", "aten.addmm")
        )

    with FlopCounterMode(display=False) as forward:
        hidden, _ = policy._hidden_before_actions(batch)
    assert cost.forward(tokens, 0) == products(forward)
    with FlopCounterMode(display=False) as backward:
        hidden.sum().backward()
    # The first layer's inputs, and with adapters its frozen products, need no gradient: at most as much as is counted.
    assert 0.5 * cost.backward(tokens, 0) <= products(backward) <= 1.2 * cost.backward(tokens, 0)
    assert cost.forward(0, 7) == 2 * 7 * policy.base_model.get_output_embeddings().weight.numel()
    assert cost.trained == sum(value.numel() for value in policy.parameters() if value.requires_grad)


def test_a_peak_is_forgotten_once_it_was_read() -> None:
    memory = PeakMemory(torch.device("cpu"))
    memory.since_last()
    torch.ones(2**26).sum()  # 256 MiB, gone at once
    high = memory.since_last()
    assert high - memory.since_last() > 150 or not Path("/proc/self/clear_refs").exists()


def test_the_limits_of_the_machine_are_positive() -> None:
    limits = Roofline.measured(torch.device("cpu"), torch.float32)
    assert limits.flops > 1e8
    assert limits.copied > 1e8


def test_a_negative_warmup_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="warmup"):
        IterationProfile(warmup=-1)

"""Training on two processes equals training on one: gradients, metrics, checkpoints, evaluation, errors."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from transformers import Qwen2Config, Qwen2ForCausalLM

from llds.paths import resolve_path
from llds.strategies.memory import Setting, load, states
from tests.integration.scenarios import OVERSAMPLED, AdamWAgent, PoisonedAgent, SGDAgent, logged, probed, scenario
from tests.runs import tiny_policy

pytestmark = pytest.mark.slow
pytest.importorskip("deepspeed")
ROOT = Path(__file__).parents[2]
ADAMW, SGD = 1e-5, 1e-6
"""Largest difference of a weight after three iterations, absolute."""


def launch(script: Path, *arguments: str, timeout: float = 500) -> subprocess.CompletedProcess[str]:
    """Run a script in two processes."""
    port = str(find_free_network_port())
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", port]
    return subprocess.run(
        [*command, str(script), *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "1000000"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two processes found."""
    folder = tmp_path_factory.mktemp("two")
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "vocab_size": 256}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 8}
    large = Qwen2ForCausalLM(Qwen2Config(**sizes, **heads, tie_word_embeddings=False))
    large.save_pretrained(folder / "large", max_shard_size="50MB")
    done = launch(ROOT / "tests" / "integration" / "two_ranks.py", str(folder))
    assert (folder / "found.pt").exists(), done.stdout[-3000:] + done.stderr[-6000:]
    results: dict[str, Any] = torch.load(folder / "found.pt", weights_only=False)
    assert done.returncode == 0, done.stderr[-6000:]
    errors = [value["error"] for value in results.values() if isinstance(value, dict) and "error" in value]
    assert not errors, errors[0]
    assert results["ranks"] == 2
    return results


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process finds."""
    runs = {
        "adamw": scenario(tmp_path_factory.mktemp("one"), AdamWAgent).fit(),
        "sgd": scenario(tmp_path_factory.mktemp("one"), SGDAgent).fit(),
        "oversampled": scenario(tmp_path_factory.mktemp("one"), AdamWAgent, **OVERSAMPLED).fit(),
        "poisoned": scenario(tmp_path_factory.mktemp("one"), PoisonedAgent).fit(),
        "bf16": scenario(
            tmp_path_factory.mktemp("one"), AdamWAgent, is_cut_fine=True, iterations=1, precision="bf16-mixed"
        ).fit(),
    }
    return {name: {"weights": dict(run.module.policy.weights()), "logged": logged(run)} for name, run in runs.items()}


def gap(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Largest difference between two sets of weights of the same names."""
    assert ours.keys() == theirs.keys()
    return max(float((value - theirs[name]).abs().max()) for name, value in ours.items())


@pytest.mark.parametrize(
    ("run", "tolerance"),
    [
        ("zero3 adamw", ADAMW),
        ("zero3 sgd", SGD),
        ("ddp adamw", ADAMW),
        ("ddp sgd", SGD),
        ("ddp oversampled", ADAMW),
    ],
)
def test_weights_and_metrics_are_those_of_one_process(
    found: dict[str, Any], alone: dict[str, Any], run: str, tolerance: float
) -> None:
    one, two = alone[run.split()[1]], found[run]
    assert two["in parts"] == float(run.startswith("zero3"))
    difference = gap(one["weights"], two["weights"])
    print(f"{run}: {difference:.1e}")  # shown by pytest -s
    assert difference <= tolerance
    assert one["logged"].keys() == two["logged"].keys() == {"1.0", "2.0", "3.0"}
    for iteration, metrics in one["logged"].items():
        assert two["logged"][iteration] == pytest.approx(metrics, rel=1e-4, abs=1e-5), iteration


def test_objects_travel_by_a_group_that_waits_on_sockets(found: dict[str, Any]) -> None:
    assert found["objects"] == {"backend": "gloo", "is its own": True, "of": [0, 1]}


@pytest.mark.parametrize("run", ["zero3 poisoned", "ddp poisoned"])
def test_what_is_not_finite_on_one_rank_is_skipped_by_all(
    found: dict[str, Any], alone: dict[str, Any], run: str
) -> None:
    assert [metrics["train/nonfinite_step"] for metrics in found[run]["logged"].values()] == [0, 1, 0]
    assert gap(alone["poisoned"]["weights"], found[run]["weights"]) <= ADAMW
    assert gap(alone["poisoned"]["weights"], alone["adamw"]["weights"]) > 1e-4


def test_offloading_with_some_parameters_whole_changes_nothing(found: dict[str, Any], alone: dict[str, Any]) -> None:
    assert 0 < found["zero3 offload"]["in parts"] < 1
    assert gap(alone["adamw"]["weights"], found["zero3 offload"]["weights"]) <= ADAMW


def test_bfloat16_trains_in_parts_as_in_one_process(found: dict[str, Any], alone: dict[str, Any]) -> None:
    assert {value.dtype for value in found["zero3 bf16"]["weights"].values()} == {torch.bfloat16}
    one, two = alone["bf16"]["logged"]["1.0"], found["zero3 bf16"]["logged"]["1.0"]
    for key in ("policy/log_likelihood_correct", "policy/entropy", "train/grad_norm"):
        assert two[key] == pytest.approx(one[key], rel=2e-3), key


def test_the_scenario_clips_and_loses_a_trajectory(alone: dict[str, Any]) -> None:
    for one in (alone["adamw"], alone["sgd"]):
        assert all(metrics["train/grad_norm"] > 0.05 for metrics in one["logged"].values())
        assert any(metrics["rollout/failed"] > 0 for metrics in one["logged"].values())
    assert gap(alone["adamw"]["weights"], alone["sgd"]["weights"]) > 1e-3
    assert {metrics["rollout/groups_drawn"] for metrics in alone["oversampled"]["logged"].values()} == {4}


@pytest.mark.parametrize("run", ["zero3 adamw", "ddp adamw"])
def test_ranks_have_equal_metrics_micro_batches_and_about_as_many_tokens(found: dict[str, Any], run: str) -> None:
    ours, theirs = found[run]["metrics"]
    assert ours == theirs
    calls = found[run]["calls"]
    assert calls[0] == calls[1] > 0
    tokens = [sum(seen) for seen in found[run]["tokens"]]
    assert max(tokens) / min(tokens) < 1.15, tokens
    assert 0 in found[run]["tokens"][0] + found[run]["tokens"][1]  # a rank did run short


def test_a_lora_policy_starts_as_its_reference_and_learns_in_parts(found: dict[str, Any]) -> None:
    run = found["zero3 lora"]
    assert run["in parts"] == 1
    assert run["logged"]["1.0"]["policy/kl_ref"] == 0
    assert run["logged"]["1.0"]["train/grad_norm"] > 0
    assert run["logged"]["1.0"]["policy/ratio_max"] > 1


def test_a_run_in_parts_resumes_to_the_bit_with_its_anchor(found: dict[str, Any]) -> None:
    whole, resumed = found["resumed"]["whole"], found["resumed"]["resumed"]
    assert gap(whole["weights"], resumed["weights"]) == 0
    assert whole["logged"]["4.0"] == resumed["logged"]["4.0"]


def test_a_checkpoint_holds_the_policy_alone_and_merges_exactly(found: dict[str, Any]) -> None:
    names = found["resumed"]["names"]
    assert names
    assert all(name.startswith("policy.") for name in names)
    saved, weights = found["resumed"]["saved"], found["resumed"]["resumed"]["weights"]
    assert all(torch.equal(saved[name], value) for name, value in weights.items())


def test_each_question_is_evaluated_once_in_order(found: dict[str, Any]) -> None:
    ids = [question for question, _ in found["evaluated"]]
    lines = resolve_path("llds:quickstart/train.jsonl").read_text().splitlines()
    assert ids == [json.loads(line)["id"] for line in lines[:12]]


def test_a_checkpoint_of_other_ranks_or_another_strategy_is_refused_with_the_way_out(found: dict[str, Any]) -> None:
    other_ranks, other_strategy = found["refused"]
    assert "Expected to go on with the 3 ranks that wrote" in other_ranks
    assert "llds export CHECKPOINT FOLDER" in other_ranks
    assert "to be a checkpoint of ZeRO-3 (a folder)" in other_strategy


def test_damage_of_one_ranks_part_is_found_and_the_older_checkpoint_is_named(found: dict[str, Any]) -> None:
    assert "Rank 1 failed, and all stop with it." in found["damaged"]
    assert "rank_1_mp_rank_00_optim_states.pt, its checksum is" in found["damaged"]
    assert "damaged/iteration-00000" in found["damaged"].partition("--ckpt_path")[2]


def test_where_one_rank_cannot_write_all_go_on_to_the_next_checkpoint(found: dict[str, Any]) -> None:
    [warning] = [one for one in found["full disk"]["said"] if "File too large" in one]
    assert "iteration-000001.ckpt. The run goes on and tries again at the next checkpoint; failure 1 of 3" in warning
    assert found["full disk"]["names"] == ["iteration-000001.ckpt", "iteration-000003.ckpt"]


def test_the_transformers_sampler_samples_with_the_weights_of_the_policy(found: dict[str, Any]) -> None:
    assert found["sampled"]["in parts"] == 1
    assert all(value <= 1e-4 for value in found["sampled"]["gap"])


def test_no_rank_holds_a_model_whole_while_it_is_loaded(found: dict[str, Any]) -> None:
    sizes, peaks = found["loaded"]["sizes"], found["loaded"]["peaks"]
    assert found["loaded"]["equal"]
    print(f"of {sum(sizes) / 2**20:.0f} MiB the ranks allocated {[round(peak / 2**20) for peak in peaks]}")
    assert max(peaks) < 0.5 * sum(sizes) + 8 * max(sizes) < 0.8 * sum(sizes)


def test_a_rank_keeps_as_many_bytes_as_the_estimate_says(found: dict[str, Any]) -> None:
    estimate = states(load(tiny_policy()), Setting(gpus=2, weight_bytes=4))
    assert found["zero3 adamw"]["bytes"] == pytest.approx(estimate, rel=0.03)


@pytest.mark.parametrize("run", ["zero3 offload bf16 rolled back", "ddp rolled back"])
def test_a_run_that_goes_back_to_a_checkpoint_repeats_its_updates_to_the_bit(found: dict[str, Any], run: str) -> None:
    assert found[run]["gaps"] == [[0.0] * 4] * 2
    # three optimizer steps per iteration, four iterations: the rate falls linearly from 1e-3 at 0 to 0 at 12
    assert found[run]["steps"] == [(9, pytest.approx(2.5e-4)), (6, pytest.approx(5e-4)), (6, pytest.approx(5e-4))]
    assert found[run]["iterations"] == ["1.0", "2.0", "3.0", "4.0"]


@pytest.mark.parametrize("run", ["zero3 guarded", "ddp guarded"])
def test_ranks_climb_the_ladder_together_and_go_back_to_the_bit(found: dict[str, Any], run: str) -> None:
    one, two, three, four, five = found[run]["saved"]
    assert gap(three, two) == 0  # the update was skipped
    assert gap(four, one) == 0  # the last that was followed by a quiet iteration
    assert gap(two, one) > 1e-4 < gap(five, four)
    assert found[run]["counts"] == [[1, 1, 1, 1, 1]] * 2
    assert found[run]["lambda"] == [0.2, 0.2]
    assert found[run]["incidents"] == ["iteration-000003-skip-update", "iteration-000004-roll-back"]
    rows = found[run]["logged"]
    assert rows["4.0"]["collapse/back_to"] == 1
    assert rows["5.0"]["train/learning_rate"] == pytest.approx(rows["4.0"]["train/learning_rate"] / 2)


@pytest.mark.parametrize("run", ["zero3 guarded", "ddp guarded"])
def test_ranks_that_resume_after_their_actions_go_on_to_the_bit(found: dict[str, Any], run: str) -> None:
    assert gap(found[run]["weights"], found[run]["weights again"]) == 0
    assert found[run]["logged again"]["5.0"] == found[run]["logged"]["5.0"]


def test_ranks_share_the_questions_of_a_probe_and_find_the_same(
    found: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    alone = probed(tmp_path_factory.mktemp("one"))
    assert len(alone) == 3
    for of_rank in found["probes"]["changes"]:
        assert of_rank == pytest.approx(alone, abs=1e-6)
    assert "got ZeRO-3" in found["probes"]["refusal"]


def test_an_error_of_one_rank_is_known_to_all(found: dict[str, Any]) -> None:
    ours, theirs = found["failing alone"]
    assert ours == theirs
    assert ours.startswith("Rank 1 failed, and all stop with it.")
    assert "ZeroDivisionError: of rank 1" in ours


def test_a_rollout_that_breaks_on_one_rank_stops_both_with_a_checkpoint_that_goes_on(found: dict[str, Any]) -> None:
    ours, theirs = found["broken tool"]["errors"]
    assert ours == theirs
    assert "ArithmeticError: a bug in a tool" in ours
    assert list(found["broken tool"]["logged"]) == ["1.0", "2.0", "3.0"]

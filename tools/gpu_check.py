"""Does llds hold up on this GPU? Nine checks, each with its figure; one that fails keeps no other from running.

    python tools/gpu_check.py                      # about 8 minutes on one card
    python tools/gpu_check.py --small              # sizes cut down, for a CPU
    python tools/gpu_check.py --only head noise --out checks.json

Needs llds's own dependencies without vLLM, DeepSpeed and Chroma (BM25 searches). The exit status is 1 where a check
failed; one that this machine cannot do is left out, with the reason.
"""

import argparse
import asyncio
import csv
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen2Config

from llds.batches.micro_batches import MicroBatchLimits
from llds.batches.policy_batch import PolicyBatch
from llds.losses import grpo_loss
from llds.losses.log_probs import selected_log_probs
from llds.modules.policy import tree_attention
from llds.modules.policy.policy import Policy
from llds.modules.policy.tokenizer import load_tokenizer
from llds.paths import resolve_path
from llds.samplers import SampleRequest, TransformersSampler
from llds.samplers.vllm.fingerprint import fingerprint
from llds.strategies.memory import Setting, parameters, peak, trainer
from llds.types import SamplingParams

QUICKSTART = "llds:quickstart/policy"
_PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40": 181e12, "4090": 165e12}
_SHAPES = {  # hidden, feed-forward, layers, heads, key-value heads, vocabulary
    "3B": (2048, 11008, 36, 16, 2, 151_936),
    "0.5B": (896, 4864, 24, 14, 2, 151_936),
    "small": (64, 128, 2, 4, 2, 512),
}


class CannotError(Exception):
    """This machine cannot do a check; the message says why."""


def _expect(holds: bool, found: object) -> None:
    """Fail a check with what was found."""
    if not holds:
        raise RuntimeError(str(found))


class Card:
    """The device, and the sizes that it gets.

    Args:
        small: Whether sizes are cut down.
    """

    def __init__(self, small: bool) -> None:
        self.small = small
        self.is_gpu = torch.cuda.is_available()
        self.device = torch.device("cuda", 0) if self.is_gpu else torch.device("cpu")
        self.name = torch.cuda.get_device_name() if self.is_gpu else "CPU"
        self._kept = tempfile.TemporaryDirectory(prefix="llds-gpu-check-")  # gigabytes of a model; gone at the end
        self.folder = Path(self._kept.name)

    def autocast(self, *, is_on: bool = True) -> Any:
        """Mixed precision, as `bf16-mixed` has it."""
        return torch.autocast(self.device.type, torch.bfloat16) if is_on else nullcontext()

    @contextmanager
    def measured(self, into: dict[str, Any], name: str) -> Iterator[None]:
        """Note wall time and peak memory of a block."""
        self.wait()
        if self.is_gpu:
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        yield
        self.wait()
        into[f"{name}, s"] = round(time.perf_counter() - started, 4)
        if self.is_gpu:
            into[f"{name}, peak GiB"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)

    def wait(self) -> None:
        """Wait for what was launched."""
        if self.is_gpu:
            torch.cuda.synchronize()

    def model(self, shape: str) -> str:
        """Folder of a model of a shape with random weights."""
        folder = self.folder / shape
        if not folder.exists():
            hidden, wide, layers, heads, groups, vocabulary = _SHAPES[shape]
            config = Qwen2Config(
                hidden_size=hidden, intermediate_size=wide, num_hidden_layers=layers, num_attention_heads=heads,
                num_key_value_heads=groups, vocab_size=vocabulary, tie_word_embeddings=True,
            )  # fmt: skip
            torch.manual_seed(0)
            with torch.device(self.device):
                AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
        return str(folder)


def batch_of(card: Card, groups: int, size: int, prompt: int, response: int, vocabulary: int) -> PolicyBatch:
    """Groups that share their prompts; every response token is an action."""
    drawn = torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocabulary, (groups * size, prompt + response), generator=drawn)
    ids[:, :prompt] = ids[::size, :prompt].repeat_interleave(size, 0)
    index = torch.zeros_like(ids)
    index[:, :prompt] = -1
    numbers = torch.arange(groups).repeat_interleave(size)
    zeros = torch.zeros(len(ids))
    advantages = torch.randn(len(ids), generator=drawn)
    return PolicyBatch(
        ids, torch.ones_like(ids), index, index < -1, torch.zeros(ids.shape), zeros, zeros > 0, advantages, numbers
    ).to(card.device)


def flash(card: Card) -> dict[str, Any]:
    """Flash attention on a tree against SDPA, forward and backward: within 2%, else it would not be used."""
    if not card.is_gpu:
        raise CannotError("flash attention needs a GPU")
    reasons = {
        f"{heads}/{groups} heads of {width}, {dtype}": tree_attention.why_not_flash(
            card.device, dtype, heads, groups, width
        )
        for heads, groups, width in ((16, 2, 64), (16, 2, 128), (16, 16, 128))
        for dtype in (torch.bfloat16, torch.float16)
    }
    with card.autocast():
        config = Qwen2Config(hidden_size=2048, num_attention_heads=16, num_key_value_heads=2)
        reasons["autocast"] = tree_attention.try_flash_attention(config, card.device, torch.float32)
    _expect(not any(reasons.values()), reasons)
    return {"kinds within 2% of SDPA": len(reasons)}


def head(card: Card) -> dict[str, Any]:
    """The chunked head against all logits at once: error, time, peak memory, by size of the tiles."""
    tokens, width, vocabulary = (256, 32, 1000) if card.small else (10_000, 2048, 151_936)
    dtype = torch.bfloat16 if card.is_gpu else torch.float32
    drawn = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(*size, generator=drawn) * 0.05 for size in ((tokens, width), (vocabulary, width)))
    targets = torch.randint(0, vocabulary, (tokens,), generator=drawn).to(card.device)
    found: dict[str, Any] = {}

    def run(name: str, scores: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        inputs = [x.to(card.device, dtype).requires_grad_() for x in (hidden, weight)]
        with card.measured(found, name):
            output = scores(*inputs)
            output.sum().backward()
        gradient = inputs[0].grad
        return output.detach(), cast(Tensor, gradient)

    def naive(states: Tensor, rows: Tensor) -> Tensor:
        return (states.float() @ rows.float().T).log_softmax(-1).gather(1, targets[:, None])[:, 0]

    right, of_right = run("naive", naive)
    for tiles in ((64, 128), (128, 512), (256, 999)) if card.small else ((512, 2048), (1024, 4096), (2048, 16384)):
        part, of_part = min(tiles[0], tokens), min(tiles[1], vocabulary)
        ours, of_ours = run(
            f"tiles {part} x {of_part}",
            lambda states, rows, a=part, b=of_part: (
                selected_log_probs(states, rows, targets, token_chunk=a, vocab_chunk=b).log_probs
            ),
        )
        error = float((ours - right).abs().max())
        gradient = float((of_ours.float() - of_right.float()).norm() / of_right.float().norm())
        found[f"tiles {part} x {of_part}, error"] = f"{error:.1e} nats, gradient {gradient:.1e}"
        _expect(error < 0.02, found)
        _expect(gradient < 0.02, found)
    return found


def update(card: Card) -> dict[str, Any]:
    """One micro-batch scored, then trained on, with checkpointing; with shared prefixes and without."""
    large = card.is_gpu and torch.cuda.get_device_properties(0).total_memory > 70e9
    shape = "small" if card.small else "3B" if large else "0.5B"
    prompt, response = (24, 40) if card.small else (216, 1500)
    batch = batch_of(card, 4, 4, prompt, response, _SHAPES[shape][-1])
    found: dict[str, Any] = {"shape": shape}
    for shares in (True, False):
        policy = Policy(card.model(shape), "float32", gradient_checkpointing=True, share_prefixes=shares)
        policy.to(card.device)
        with card.autocast():
            policy.try_attention(card.device)
        optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-6, fused=True)
        name = "shared" if shares else "padded"
        for _ in range(2):  # the first warms up
            with card.measured(found, f"{name}: scored"), card.autocast(), torch.no_grad():
                old = policy(batch).log_probs
            with card.measured(found, f"{name}: updated"):
                with card.autocast():
                    loss = grpo_loss(policy(batch).log_probs, old, batch.advantages, batch.action_index).loss
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
        _expect(bool(torch.isfinite(loss)), loss)
        config = policy.base_model.config
        del policy, optimizer
    setting = Setting(1, "ddp", has_reference=False, rows=len(batch), tokens=prompt + response)
    found["llds memory, GiB"] = round(peak(trainer(config, setting)) / 2**30, 1)
    peak_flops = next((value for name, value in _PEAK_FLOPS.items() if name in card.name), None)
    if peak_flops:  # forward, backward and the forward again; attention's products left out
        flops = 8.0 * parameters(config) * batch.input_ids.numel()
        found["share of the card's peak, padded"] = f"{100 * flops / found['padded: updated, s'] / peak_flops:.0f}%"
    return found


@torch.no_grad()
def noise(card: Card) -> dict[str, Any]:
    """Log-probs of the same tokens in other micro-batches: how far rounding alone moves them."""
    shape = "small" if card.small else "0.5B"
    batch = batch_of(card, 4, 4, 24, 40 if card.small else 400, _SHAPES[shape][-1])
    policy = Policy(card.model(shape), "float32").to(card.device)
    found = {}
    for precision in ("32-true", "bf16-mixed"):
        scores = []
        for rows in (16, 3):
            out = torch.zeros(batch.input_ids.shape, device=card.device)
            with card.autocast(is_on=precision == "bf16-mixed"):
                for chosen, part in batch.micro_batches(MicroBatchLimits(rows, None), packed=True):
                    found_here = policy(part).log_probs
                    out[chosen, : found_here.shape[1]] = found_here.float()
            scores.append(out[batch.action_mask])
        gap = (scores[0] - scores[1]).abs()
        found[precision] = f"mean {float(gap.mean()):.1e}, max {float(gap.max()):.1e} nats"
        _expect(float(gap.mean()) < (0.05 if precision == "bf16-mixed" else 1e-3), found)
    return found


def quickstart(card: Card) -> dict[str, Any]:
    """`llds fit` of the quickstart with BM25, and a resume."""
    folder, iterations = card.folder / "run", 1 if card.small else 30
    command = [sys.executable, "-m", "llds", "fit", "-c", "llds:quickstart", "-c", "llds:retrieval/bm25"]
    command += ["--trainer.default_root_dir", str(folder), "--retrieval.retriever.path", str(card.folder / "bm25")]
    command += ["--trainer.accelerator", "gpu" if card.is_gpu else "cpu"]
    command += ["--trainer.precision", "bf16-mixed" if card.is_gpu else "32-true", "--trainer.devices", "1"]
    if card.small:
        command += ["--data.batch_size", "2", "--model.optimization.mini_batch_size", "1", "--rollout.group_size", "2"]
        command += ["--trainer.limit_val_batches", "0"]
    found: dict[str, Any] = {}
    for total, further in ((iterations, []), (iterations + 1, ["--ckpt_path", "last"])):
        arguments = [*command, "--data.iterations", str(total), *further]
        with card.measured(found, f"{total} iterations"):
            done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=600)
        _expect(done.returncode == 0, done.stderr[-2000:])
    logged = [row for file in sorted(folder.rglob("metrics.csv")) for row in csv.DictReader(file.open())]
    for name in ("policy/behavior_gap_mean", "policy/behavior_gap_max", "reward/mean"):
        values = [float(row[name]) for row in logged if row.get(name)]
        _expect(bool(values), f"no {name} was logged")
        _expect(all(math.isfinite(value) for value in values), name)
        found[name] = f"{values[0]:.2g} ... {values[-1]:.2g}"
    return found


def ipc(card: Card) -> dict[str, Any]:
    """A tensor that a child process gets by handle has the fingerprint that it has on the CPU."""
    tensor = torch.randn(1000, 257, generator=torch.Generator().manual_seed(0)).bfloat16()
    context = torch.multiprocessing.get_context("spawn")
    given, told = context.Queue(), context.Queue()
    child = context.Process(target=_tell, args=(given, told))
    child.start()
    sent = tensor.to(card.device)
    given.put(sent)
    seen = told.get(timeout=300)
    child.join(60)
    _expect(seen == fingerprint(tensor) == fingerprint(sent), seen)
    return {"fingerprint": "equal in the child and on the CPU"}


def _tell(given: Any, told: Any) -> None:
    told.put(fingerprint(given.get()))


def optimizer(card: Card) -> dict[str, Any]:
    """AdamW's step by its implementations."""
    count = 100_000 if card.small else 500_000_000
    found: dict[str, Any] = {}
    for name in ("foreach", "fused"):
        weights = [torch.nn.Parameter(torch.zeros(count // 8, device=card.device)) for _ in range(8)]
        made = torch.optim.AdamW(weights, lr=1e-6, foreach=name == "foreach", fused=name == "fused")
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        made.step()
        with card.measured(found, name):
            made.step()
        del weights, made
    return found | {"parameters": count, "8-bit": "not installed: llds has no 8-bit optimizer"}


def sampling(card: Card) -> dict[str, Any]:
    """Tokens per second of the transformers sampler on the quickstart's policy."""
    tokenizer = load_tokenizer(QUICKSTART)
    dtype = torch.bfloat16 if card.is_gpu else torch.float32
    model: Any = AutoModelForCausalLM.from_pretrained(resolve_path(QUICKSTART), dtype=dtype)
    model = model.to(card.device).eval()
    context, law, found = tokenizer.encode("Question: what is the capital of Ghana?"), SamplingParams(), {}
    stops = ("</search>", "</answer>")
    for rows in (2, 4) if card.small else (64, 256):
        sampler = TransformersSampler(max_batch_size=rows)
        sampler.attach(model, tokenizer)
        requests = [SampleRequest(n, context, 8 if card.small else 128, stops, law, (n,)) for n in range(rows)]

        async def run(sampler: TransformersSampler = sampler, requests: Any = requests) -> int:
            for request in requests:
                sampler.open_trajectory(request.trajectory)
            done = await asyncio.gather(*(sampler.sample(request) for request in requests))
            return sum(len(one.token_ids) for one in done)

        started = time.perf_counter()
        tokens = asyncio.run(run())
        found[f"{rows} rows, tokens/s"] = round(tokens / (time.perf_counter() - started))
        sampler.close()
    return found


def smollm2(card: Card) -> dict[str, Any]:
    """SmolLM2-135M on questions of HotpotQA, where both were brought (conf/models/smollm2.yaml)."""
    model, data = Path("models/smollm2-135m-instruct"), Path("data")
    if not (model / "config.json").is_file() or not (data / "train").is_dir():
        raise CannotError(f"needs {model} and {data} (docs/pretrained_models.md)")
    command = [sys.executable, "-m", "llds", "fit", "-c", "llds:base", "-c", "llds:models/smollm2"]
    command += ["-c", "llds:retrieval/bm25", "--data_root", str(data)]
    command += ["--trainer.default_root_dir", str(card.folder / "smollm2")]
    found: dict[str, Any] = {}
    with card.measured(found, "3 iterations"):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    _expect(done.returncode == 0, done.stderr[-2000:])
    return found


CHECKS: dict[str, Callable[[Card], dict[str, Any]]] = {
    check.__name__: check for check in (flash, head, update, noise, quickstart, ipc, optimizer, sampling, smollm2)
}


def main() -> int:
    """Run the checks; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="sizes cut down, for a CPU")
    parser.add_argument("--only", nargs="+", choices=list(CHECKS), default=list(CHECKS), help="these checks alone")
    parser.add_argument("--out", type=Path, help="JSON file of the figures")
    given = parser.parse_args()
    card, found = Card(given.small or not torch.cuda.is_available()), {}
    print(f"{card.name}, torch {torch.__version__}\n\n| check | outcome | figures |\n| --- | --- | --- |", flush=True)
    for name in given.only:
        started = time.perf_counter()
        try:
            found[name] = {"outcome": "passed", **CHECKS[name](card)}
        except CannotError as reason:
            found[name] = {"outcome": "left out", "reason": str(reason)}
        except Exception as error:
            found[name] = {"outcome": "FAILED", "reason": f"{type(error).__name__}: {error}"}
        figures = "; ".join(f"{key}: {value}" for key, value in found[name].items() if key != "outcome")
        print(f"| {name} ({time.perf_counter() - started:.0f} s) | {found[name]['outcome']} | {figures} |", flush=True)
        if card.is_gpu:
            torch.cuda.empty_cache()
    if given.out:
        given.out.write_text(json.dumps({"device": card.name, "torch": torch.__version__, "checks": found}, indent=1))
    return int(any(one["outcome"] == "FAILED" for one in found.values()))


if __name__ == "__main__":
    sys.exit(main())

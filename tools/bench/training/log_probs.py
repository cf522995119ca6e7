"""Memory and time of log-probs + entropy, forward and backward: llds, naive, and TRL's chunked kernel.

Run from the repository root (minutes for each number of tokens)::

    python tools/bench/training/log_probs.py
    python tools/bench/training/log_probs.py --tokens 1024 4096 16384 --observations 0.6 --trl ~/trl/bin/python

``--trl`` names the interpreter of an environment with trl==1.16.0 (see `grpo_step.py`); without it TRL is left out.
T tokens, of which so many are observations: llds computes the actions alone. Naive is the whole logits,
``log_softmax``, ``gather`` and the entropy under ``no_grad`` for all of them; TRL's kernel gets all of them too, as its
trainer gives them on a CPU, where it scores every position.

* Memory: peak resident memory of a process that does one forward and one backward pass, minus its resident memory just
  before, when imports, hidden states, head and a small warm-up are there. Everything the passes allocate counts, their
  results too; in brackets without the gradients of head and hidden states, which every method must return. A fresh
  process for each number.
* Time: processor seconds of that pass, the least of the repeats. A method whose logits would not fit into
  ``--most-gib`` is left out.

Left out: the backbone, and devices other than the CPU.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

Method = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
MIB = 2**20


def naive(hidden: Tensor, weight: Tensor, targets: Tensor, is_action: Tensor) -> Tensor:
    """From all the logits."""
    log_probs = (hidden @ weight.t()).float().log_softmax(-1)  # [T, V]
    with torch.no_grad():
        _ = -(log_probs.exp() * log_probs).sum(-1)
    return log_probs.gather(1, targets.unsqueeze(1)).squeeze(1)[is_action]


def llds(hidden: Tensor, weight: Tensor, targets: Tensor, is_action: Tensor) -> Tensor:
    """In tiles, at actions."""
    from llds.losses.log_probs import selected_log_probs

    return selected_log_probs(hidden[is_action], weight, targets[is_action]).log_probs


def trl(hidden: Tensor, weight: Tensor, targets: Tensor, is_action: Tensor) -> Tensor:
    """In tiles, everywhere."""
    from trl.kernels import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    found = ChunkedLogProbFunction.apply(
        hidden, weight, None, targets, 1.0, _CHUNKED_LOGPROB_CHUNK_SIZE, None, 1.0, ("entropy",)
    )
    return found[0][is_action]


METHODS: dict[str, Method] = {"naive": naive, "trl": trl, "llds": llds}


def memory_kib(key: str) -> int:
    """A field of ``/proc/self/status``: VmRSS (now) or VmHWM (peak)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    raise RuntimeError(f"Expected the field {key} in /proc/self/status, got none. Run this on Linux.")


def run_once(method: Method, inputs: tuple[Tensor, Tensor, Tensor, Tensor]) -> float:
    """One forward and one backward pass; returns the processor seconds that they took."""
    hidden, weight, _, _ = inputs
    hidden.grad = weight.grad = None
    start = time.process_time()
    log_probs = method(*inputs)
    log_probs.backward(torch.linspace(-1, 1, len(log_probs)))
    return time.process_time() - start


def measure(args: argparse.Namespace) -> dict[str, float]:
    """What one child process reports: extra peak memory and time of one method."""
    torch.manual_seed(0)
    method = METHODS[args.child]
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    hidden = torch.empty(args.tokens[0], args.hidden, dtype=dtype).normal_().requires_grad_()
    weight = torch.empty(args.vocab, args.hidden, dtype=dtype).normal_(std=3 * args.hidden**-0.5)
    weight.requires_grad_(args.head == "trained")
    targets = torch.randint(args.vocab, (args.tokens[0],))
    is_action = torch.rand(args.tokens[0]) >= args.observations
    small = (
        hidden[:8].detach().requires_grad_(),
        weight[:64].detach(),
        targets[:8] % 64,
        torch.ones(8, dtype=torch.bool),
    )
    run_once(method, small)
    before = memory_kib("VmRSS")
    seconds = [run_once(method, (hidden, weight, targets, is_action)) for _ in range(args.repeats)]
    return {"mib": (memory_kib("VmHWM") - before) / 1024, "s": min(seconds)}


def child(args: argparse.Namespace, method: str, tokens: int) -> dict[str, float]:
    """Run `measure` in a fresh process, TRL's in its own environment."""
    python = args.trl if method == "trl" else sys.executable
    settings = {**vars(args), "child": method, "tokens": tokens}
    words = [f"--{key.replace('_', '-')}={value}" for key, value in settings.items() if value is not None]
    done = subprocess.run([python, __file__, *words], check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def table(args: argparse.Namespace) -> None:
    """Run every case and print one line for each."""
    print(f"V={args.vocab:,} H={args.hidden}, {args.dtype}, head {args.head}, {args.threads} threads, ", end="")
    print(f"{args.observations:.0%} observations, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    print("| T | method | extra peak MiB (without results) | CPU s | memory / llds | time / llds |")
    print("| --- | --- | --- | --- | --- | --- |")
    itemsize = 4 if args.dtype == "fp32" else 2
    for tokens in args.tokens:
        rows = tokens + (args.vocab if args.head == "trained" else 0)
        own = rows * args.hidden * itemsize / MIB
        found: dict[str, dict[str, float]] = {}
        for name in ("llds", "trl", "naive"):
            fits = name != "naive" or 3 * 4 * tokens * args.vocab / 2**30 <= args.most_gib
            if fits and (name != "trl" or args.trl):
                found[name] = child(args, name, tokens)
        for name, row in found.items():
            memory = f"{row['mib']:,.0f} ({row['mib'] - own:,.0f})"
            ratios = " | ".join(f"{row[key] / found['llds'][key]:.2f}" for key in ("mib", "s"))
            print(f"| {tokens:,} | {name} | {memory} | {row['s']:.1f} | {ratios} |", flush=True)


def main() -> None:
    """Parse the command line; measure in a child process, print the table in the parent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=151_936, help="vocabulary entries")
    parser.add_argument("--hidden", type=int, default=896, help="hidden units")
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024], help="tokens")
    parser.add_argument("--observations", type=float, default=0.0, help="share of them that are observations")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--head", choices=["trained", "frozen"], default="trained")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--repeats", type=int, default=2, help="timed passes of each method")
    parser.add_argument("--trl", help="interpreter of an environment with trl==1.16.0")
    parser.add_argument("--most-gib", type=float, default=8.0, help="memory that a method may take")
    parser.add_argument("--child", choices=sorted(METHODS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.child is None:
        table(args)
    else:
        sys.stdout.write(json.dumps(measure(args)) + "\n")


if __name__ == "__main__":
    main()

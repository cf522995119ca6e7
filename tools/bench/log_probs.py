"""Memory and time of log-probs + entropy, forward and backward: chunked (`llds.losses.log_probs`) against naive.

Run from the repository root (about five minutes on two cores, 4 GB of memory)::

    python tools/bench/log_probs.py
    python tools/bench/log_probs.py --tokens 256 --threads 1 --repeats 3

Naive is the whole logits, ``log_softmax``, ``gather`` and the entropy under ``no_grad``, same inputs, same threads.
What is counted:

* Memory: peak resident memory of a process that does one forward and one backward pass, minus its resident memory just
  before, when imports, hidden states, head and a small warm-up are there. Everything the passes allocate counts, their
  results too; column "without gradient of the head" takes off the bytes of that one tensor, which both methods must
  return. A fresh process for each number.
* Time: the fastest of the repeats, naive and chunked alternating in one process (what else runs on the machine only
  ever adds).

Left out: the backbone, and devices other than the CPU.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from llds.losses.log_probs import TOKEN_CHUNK, VOCAB_CHUNK, selected_log_probs

Method = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
MIB = 2**20


def naive(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probs and entropy from all the logits."""
    log_probs = (hidden @ weight.t()).float().log_softmax(-1)  # [N, V]
    with torch.no_grad():
        entropy = -(log_probs.exp() * log_probs).sum(-1)
    return log_probs.gather(1, targets.unsqueeze(1)).squeeze(1), entropy


def make_inputs(args: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor]:
    """Random hidden states and head, with logits of unit scale times three; nothing temporary is allocated."""
    torch.manual_seed(0)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    hidden = torch.empty(args.tokens, args.hidden, dtype=dtype).normal_().requires_grad_()
    weight = torch.empty(args.vocab, args.hidden, dtype=dtype).normal_(std=3 * args.hidden**-0.5)
    weight.requires_grad_(args.head == "trained")
    return hidden, weight, torch.randint(args.vocab, (args.tokens,))


def run_once(method: Method, inputs: tuple[Tensor, Tensor, Tensor]) -> float:
    """One forward and one backward pass; returns the seconds they took."""
    hidden, weight, _ = inputs
    hidden.grad = weight.grad = None
    start = time.perf_counter()
    log_probs, _ = method(*inputs)
    log_probs.backward(torch.linspace(-1, 1, log_probs.shape[0]))
    return time.perf_counter() - start


def memory_kib(key: str) -> int:
    """A field of ``/proc/self/status``: VmRSS (now) or VmHWM (peak)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    raise RuntimeError(f"Expected the field {key} in /proc/self/status, got none. Run this on Linux.")


def measure(args: argparse.Namespace) -> dict[str, float]:
    """What one child process reports: extra peak memory of one method, or the times of both."""
    methods: dict[str, Method] = {
        "naive": naive,
        "chunked": lambda h, w, t: selected_log_probs(
            h, w, t, token_chunk=args.token_chunk, vocab_chunk=args.vocab_chunk
        ),
    }
    inputs = make_inputs(args)
    small = (inputs[0][:8].detach().requires_grad_(), inputs[1][:64].detach(), inputs[2][:8] % 64)
    run_once(methods.get(args.child, naive), small)
    if args.child != "time":
        before = memory_kib("VmRSS")
        run_once(methods[args.child], inputs)
        return {"mib": (memory_kib("VmHWM") - before) / 1024}
    times: dict[str, list[float]] = {"naive": [], "chunked": []}
    for _ in range(args.repeats):
        for name in times:
            times[name].append(run_once(methods[name], inputs))
    return {name: min(values) for name, values in times.items()}


def child(args: argparse.Namespace, role: str, dtype: str, head: str) -> dict[str, float]:
    """Run `measure` in a fresh process."""
    settings = {**vars(args), "child": role, "dtype": dtype, "head": head}
    words = [f"--{key.replace('_', '-')}={value}" for key, value in settings.items() if value is not None]
    done = subprocess.run([sys.executable, __file__, *words], check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def table(args: argparse.Namespace) -> None:
    """Run every case and print one line for each."""
    print(f"V={args.vocab:,} H={args.hidden} N={args.tokens:,}, {args.threads} threads, torch {torch.__version__}")
    print("extra peak MiB (in brackets: without gradient of the head) and seconds, forward + backward")
    print("| dtype | head | naive MiB | chunked MiB | ratio | naive s | chunked s | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for dtype in ("fp32", "bf16"):
        for head in ("trained", "frozen"):
            own = args.vocab * args.hidden * (4 if dtype == "fp32" else 2) / MIB if head == "trained" else 0.0
            whole, tiled = (child(args, role, dtype, head)["mib"] for role in ("naive", "chunked"))
            times = child(args, "time", dtype, head)
            memory = f"{whole:,.0f} ({whole - own:,.0f}) | {tiled:,.0f} ({tiled - own:,.0f}) | {tiled / whole:.2f}"
            seconds = f"{times['naive']:.2f} | {times['chunked']:.2f} | {times['chunked'] / times['naive']:.2f}"
            print(f"| {dtype} | {head} | {memory} | {seconds} |", flush=True)


def main() -> None:
    """Parse the command line; measure in a child process, print the table in the parent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=151_936, help="vocabulary entries")
    parser.add_argument("--hidden", type=int, default=896, help="hidden units")
    parser.add_argument("--tokens", type=int, default=1024, help="action tokens")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--repeats", type=int, default=5, help="timed passes of each method")
    parser.add_argument("--token-chunk", type=int, default=TOKEN_CHUNK, help="tokens of a tile")
    parser.add_argument("--vocab-chunk", type=int, default=VOCAB_CHUNK, help="vocabulary entries of a tile")
    for hidden_option in ("child", "dtype", "head"):
        parser.add_argument(f"--{hidden_option}", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.child is None:
        table(args)
    else:
        sys.stdout.write(json.dumps(measure(args)))


if __name__ == "__main__":
    main()

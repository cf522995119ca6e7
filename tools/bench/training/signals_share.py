"""What LLDS and the early-warning signals cost: their share of the processor time of an iteration of the quickstart.

    python tools/bench/training/signals_share.py [--iterations 6] [-- --data.batch_size 512 --rollout.group_size 5]

Runs the quickstart with clocks around what a plain GRPO run would not need. LLDS: its term in the loss of every
micro-batch with its part of the backward pass, measured apart on the same tensors. Early warning: the signals of the
policy, the second look at some trajectories after the updates, and the detector. The first iteration does not count.
"""

import argparse
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

import llds.callbacks.rollout.callback as rollout
from llds.callbacks import CollapseMonitor, IterationSignals
from llds.cli import main as run_command
from llds.modules import SearchAgentModule
from llds.modules.gradients import Gradients
from llds.modules.objective import Objective
from llds.modules.update_record import UpdateRecord

SECONDS: dict[str, list[float]] = defaultdict(list)


def clock(owner: Any, name: str, part: str) -> None:
    """Add up the processor seconds of a function, by iteration."""
    function: Callable[..., Any] = getattr(owner, name)

    def run(*arguments: Any, **named: Any) -> Any:
        started = time.process_time()
        try:
            return function(*arguments, **named)
        finally:
            if SECONDS[part]:  # the first rollout is over before the first clock starts
                SECONDS[part][-1] += time.process_time() - started

    setattr(owner, name, run)


def measure_llds() -> None:
    """Before each loss, compute it with and without LLDS, forward and backward; the difference is its cost."""
    loss = Objective.loss

    def seconds(objective: Objective, log_probs: torch.Tensor, *rest: Any) -> float:
        leaf = log_probs.detach().requires_grad_()
        started = time.process_time()
        loss(objective, leaf, *rest).backward()
        return time.process_time() - started

    def twice(objective: Objective, log_probs: torch.Tensor, *rest: Any) -> torch.Tensor:
        plain = replace(objective, llds_penalty=None)
        started = time.process_time()
        costs = [seconds(one, log_probs, *rest) for one in (plain, objective, plain, objective)]
        SECONDS["LLDS: loss"][-1] += max(0.0, (costs[1] + costs[3] - costs[0] - costs[2]) / 2)
        SECONDS["measuring"][-1] += time.process_time() - started
        return loss(objective, log_probs, *rest)

    Objective.loss = twice  # type: ignore[method-assign]


def main() -> None:
    """Run, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=6)
    parser.add_argument("overrides", nargs="*", help="further words for llds fit, after --")
    arguments = parser.parse_args()
    shown = (
        "LLDS: loss", "rollout signals", "policy signals", "losses' own signals", "norm of the update", "second look",
        "detector",
    )  # fmt: skip
    parts = (*shown, "measuring", "iteration")
    started = [0.0]

    def begin(*_: Any) -> None:
        now = time.process_time()
        if SECONDS["iteration"]:
            SECONDS["iteration"][-1] = now - started[0]
        started[0] = now
        for part in parts:
            SECONDS[part].append(0.0)

    measure_llds()
    clock(rollout, "rollout_metrics", "rollout signals")
    clock(UpdateRecord, "policy_metrics", "policy signals")
    clock(Objective, "signals", "losses' own signals")
    clock(Gradients, "update_norm", "norm of the update")
    clock(IterationSignals, "measure", "second look")
    clock(CollapseMonitor, "on_train_batch_end", "detector")
    IterationSignals.on_train_batch_start = begin  # type: ignore[method-assign]
    end = SearchAgentModule.on_train_epoch_end

    def finish(module: SearchAgentModule) -> None:
        SECONDS["iteration"][-1] = time.process_time() - started[0]
        end(module)

    SearchAgentModule.on_train_epoch_end = finish  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        words = ["--data.iterations", str(arguments.iterations), "--trainer.default_root_dir", f"{folder}/run"]
        index = ["--retrieval.retriever.path", f"{folder}/index"]
        run_command(["fit", "-c", "conf/quickstart.yaml", *words, *index, *arguments.overrides])
    totals = {part: sum(SECONDS[part][1:]) for part in parts}
    whole = totals["iteration"] - totals["measuring"]
    sys.stdout.write(f"{arguments.iterations - 1} iterations of {whole / (arguments.iterations - 1):.2f} CPU s, ")
    sys.stdout.write(f"load {os.getloadavg()[0]:.1f}\n| part | CPU ms an iteration | share |\n| --- | --- | --- |\n")
    for part in shown:
        milliseconds = 1000 * totals[part] / (arguments.iterations - 1)
        sys.stdout.write(f"| {part} | {milliseconds:.1f} | {totals[part] / whole:.2%} |\n")
    sys.stdout.write(f"| **together** | | **{sum(totals[part] for part in shown) / whole:.2%}** |\n")


if __name__ == "__main__":
    main()

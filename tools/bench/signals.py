"""What the signals and the detector cost, as a share of an iteration of the quickstart, in CPU time of the process.

    python tools/bench/signals.py --iterations 6

One run; everything that only makes signals is timed inside it, so that the load of the machine falls on both alike.
"""

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import llds.callbacks.rollout
import llds.modules.search_agent
from llds.callbacks import CollapseMonitor, IterationSignals
from llds.cli import main as llds_main
from llds.modules import SearchAgentModule
from llds.modules.objective import Objective
from llds.modules.update_steps import UpdateSteps

ROOT = Path(__file__).parents[2]
PARTS: tuple[tuple[str, Any, str], ...] = (
    ("trajectories (rollout_metrics)", llds.callbacks.rollout, "rollout_metrics"),
    ("tensors (policy_metrics)", llds.modules.search_agent, "policy_metrics"),
    ("losses' own signals", Objective, "signals"),
    ("norm of the update", UpdateSteps, "_update_norm"),
    ("scoring once more (IterationSignals)", IterationSignals, "on_train_batch_end"),
    ("detector (CollapseMonitor)", CollapseMonitor, "on_train_batch_end"),
)


class Clock:
    """CPU seconds by name."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self.iterations: list[float] = []

    def time(self, name: str, owner: Any, attribute: str) -> None:
        """Time every call of a function from now on."""
        function: Callable[..., Any] = getattr(owner, attribute)

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.spent[name] += time.process_time() - started

        setattr(owner, attribute, timed)

    def mark(self) -> None:
        """Count the ends of iterations; forget what the first one spent, which also warms up."""
        write = SearchAgentModule.on_train_batch_end

        def marked(*args: Any, **kwargs: Any) -> Any:
            self.iterations.append(time.process_time())
            if len(self.iterations) == 1:
                self.spent.clear()
            return write(*args, **kwargs)

        SearchAgentModule.on_train_batch_end = marked  # type: ignore[method-assign]


def main() -> None:
    """Train, and print the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=6)
    parser.add_argument("--index", default=str(Path(tempfile.gettempdir()) / "llds-bench-index"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    clock = Clock()
    for part in PARTS:
        clock.time(*part)
    clock.mark()
    with tempfile.TemporaryDirectory() as folder:
        llds_main(
            [
                "fit", "-c", str(ROOT / "conf" / "quickstart.yaml"), "--data.iterations", str(options.iterations),
                "--trainer.default_root_dir", f"{folder}/run", "--retrieval.retriever.path", options.index,
            ]
        )  # fmt: skip
    total = clock.iterations[-1] - clock.iterations[0]
    print(f"an iteration: {total / (len(clock.iterations) - 1):.2f} s of CPU, mean of {len(clock.iterations) - 1}")
    for name, _, _ in PARTS:
        print(f"{name:40s} {clock.spent[name] / total:7.2%}")
    print(f"{'together':40s} {sum(clock.spent.values()) / total:7.2%}")


if __name__ == "__main__":
    main()

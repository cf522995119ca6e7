"""Where the time and the memory of an iteration go, and how near the machine's limits its passes are.

Left out on purpose: single operations, for which there is `torch.profiler`.
"""

import json
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import nn

from llds.batches import RolloutBatch
from llds.callbacks.profile.peak_memory import PeakMemory
from llds.callbacks.profile.roofline import PolicyCost, Roofline, synchronize
from llds.callbacks.rollout.callback import RolloutCallback
from llds.errors import ConfigurationError
from llds.files import write_atomically
from llds.modules import SearchAgentModule
from llds.strategies import ZeRO3Strategy

_PHASE_OF = {
    "generation": "rollout",
    "tool wait": "rollout",
    "weight sync": "rollout",
    "scoring": "scoring",
    "forward": "update",
    "backward": "update",
    "optimizer": "update",
    "loss, signals": "update",
    "logging": "logging",
    "other": "",
}
"""The parts of an iteration, and the phase that each belongs to."""


class IterationProfile(pl.Callback):
    """Measures every iteration; writes ``profile.json`` into the run's folder and prints a table when training ends.

    Seconds of wall time by part, which add up to the iteration: *generation* (the sampler computes), *tool wait* (a
    rollout in which it does not: tools, the retriever, bookkeeping), *weight sync*, *scoring* (old, reference and
    anchor policy), *forward*, *backward*, *optimizer* (without clipping), *loss, signals* (what remains of the
    updates), *logging* (other callbacks, checkpoints, loggers between two iterations), *other*. Further the peak of
    memory by phase (of the GPU, or the resident memory of the process), tokens through the model, and the share that
    the passes reach of a large matrix product and a copy, both measured when training starts. With several ranks, all
    of that is rank 0's. On a GPU it waits for the device around each pass.

    Args:
        warmup: First iterations that the table leaves out, because they are slow.

    Attributes:
        iterations: What was measured of each.

    Raises:
        ConfigurationError: If the number is negative.
    """

    def __init__(self, warmup: int = 1) -> None:
        if warmup < 0:
            raise ConfigurationError(f"Expected `warmup` of IterationProfile >= 0, got {warmup}.")
        self.warmup = warmup
        self.iterations: list[dict[str, Any]] = []
        self._hooks: list[Any] = []
        self._batch: RolloutBatch | None = None

    # What a run does

    def on_train_start(self, trainer: pl.Trainer, pl_module: SearchAgentModule) -> None:
        """Measure the machine; watch the passes of policy, reference and optimizer."""
        self._module, self._device = pl_module, pl_module.device
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        self._sampler = next(one for one in callbacks if isinstance(one, RolloutCallback)).sampler
        self._memory = PeakMemory(self._device)
        is_mixed = str(trainer.precision).startswith("bf16")
        dtype = torch.bfloat16 if is_mixed else next(pl_module.policy.parameters()).dtype
        self._roofline = Roofline.measured(self._device, dtype)
        self._cost = PolicyCost.of(pl_module.policy)
        for policy in (pl_module.policy, pl_module.reference):
            if policy is not None:
                decoder: nn.Module = policy.base_model.get_decoder()
                self._hooks += [
                    policy.register_forward_pre_hook(lambda *_: self._before_forward()),
                    policy.register_forward_hook(lambda *_: self._after("forward")),
                    decoder.register_forward_pre_hook(self._count_tokens, with_kwargs=True),
                    policy.head.register_forward_pre_hook(self._count_predictions),
                ]
        strategy = trainer.strategy
        optimizer = strategy.own_optimizer if isinstance(strategy, ZeRO3Strategy) else trainer.optimizers[0]
        self._hooks += [
            optimizer.register_step_pre_hook(lambda *_: self._before()),
            optimizer.register_step_post_hook(lambda *_: self._after("optimizer")),
        ]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: SearchAgentModule, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Close the iteration before, whose logging ends here, and begin."""
        self._close()
        self._batch = batch
        self._phase = "rollout"
        self._peaks: dict[str, float] = {}
        self._seconds: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)
        self._started, self._busy = time.perf_counter(), self._sampler.busy.seconds

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor) -> None:
        """Start the clock."""
        self._before()

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop it."""
        self._after("backward")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: SearchAgentModule, outputs: Any, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """What follows is logging."""
        if self._phase != "logging":
            self._end_update()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: SearchAgentModule) -> None:
        """Close the last iteration, before others write what they write once."""
        self._close()

    def on_train_end(self, trainer: pl.Trainer, pl_module: SearchAgentModule) -> None:
        """Write and print."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        if not trainer.is_global_zero or not self.iterations:
            return
        path = Path(trainer.default_root_dir) / "profile.json"
        with write_atomically(path) as file:
            json.dump(self.summary() | {"iterations": self.iterations}, file, indent=1)
        Console().print(self.table())
        rank_zero_info(f"Profile: {path}")

    # Clocks and counters

    def _begin(self, phase: str) -> None:
        """Another phase than before begins: what memory peaked at since the last one is that one's."""
        if phase != self._phase:
            self._peaks[self._phase] = self._memory.since_last()
            self._phase = phase

    def _end_update(self) -> None:
        self._begin("logging")
        self._trained = time.perf_counter()

    def _before_forward(self) -> None:
        assert self._batch is not None  # noqa: S101 (hooks are made when training starts)
        if self._module.is_updating:
            self._begin("update")
        elif self._phase == "rollout" and self._batch.trajectories:  # before, a canary may be scored
            self._begin("scoring")
        elif self._phase == "update":  # a callback before this one looks at what was learned
            self._end_update()
        self._before()

    def _before(self) -> None:
        synchronize(self._device)
        self._since = time.perf_counter()

    def _after(self, part: str) -> None:
        synchronize(self._device)
        if self._module.is_updating:
            self._seconds[part] += time.perf_counter() - self._since

    def _count_tokens(self, _: nn.Module, __: tuple[Any, ...], given: dict[str, Any]) -> None:
        if self._phase in ("scoring", "update"):
            self._counts[f"{self._phase} tokens"] += given["input_ids"].numel()

    def _count_predictions(self, _: nn.Module, given: tuple[Any, ...]) -> None:
        if self._phase in ("scoring", "update"):
            self._counts[f"{self._phase} predictions"] += len(given[0])

    def _close(self) -> None:
        """Make the record of the iteration that ended."""
        if self._batch is None:
            return
        now = time.perf_counter()
        self._begin("")
        batch, timings, passes = self._batch, self._batch.timings, self._seconds
        sync = batch.metrics.get("time/weight_update_s", 0.0)
        generation = min(self._sampler.busy.seconds - self._busy, timings["rollout"] - sync)
        seconds = {
            "generation": generation,
            "tool wait": timings["rollout"] - sync - generation,
            "weight sync": sync,
            "scoring": timings.get("score", 0.0),
            **{part: passes[part] for part in ("forward", "backward", "optimizer")},
            "loss, signals": timings["update"] - sum(passes.values()),
            "logging": now - self._trained,
        }
        total = now - self._started
        sampled = sum(len(turn.action_ids) for trajectory in batch.trajectories for turn in trajectory.turns)
        self.iterations.append(
            {
                "iteration": self._module.iteration,
                "seconds": seconds | {"other": total - sum(seconds.values()), "iteration": total},
                "peak_mib": self._peaks,
                "tokens": {"sampled": sampled, **self._counts},
            }
        )
        self._batch = None

    # What it says

    def summary(self) -> dict[str, Any]:
        """Medians over the iterations after the warm-up, and what the passes reach.

        Returns:
            ``seconds`` by part, ``peak_mib`` by phase, ``tokens``, ``roofline`` of the machine (floating point
            operations and copied bytes per second), and ``reached``: shares of it, and sampled tokens per second.
        """
        rows = self.iterations[self.warmup :] or self.iterations
        seconds, peaks, tokens = (_medians(rows, key) for key in ("seconds", "peak_mib", "tokens"))
        trained = (tokens.get("update tokens", 0), tokens.get("update predictions", 0))
        scored = (tokens.get("scoring tokens", 0), tokens.get("scoring predictions", 0))
        operations = {
            "scoring": self._cost.forward(*scored),
            "forward": self._cost.forward(*trained),
            "backward": self._cost.backward(*trained),
        }
        reached = {part: count / self._roofline.flops for part, count in operations.items()}
        steps = self._module.steps_per_iteration
        reached["optimizer"] = steps * self._cost.optimizer_bytes() / self._roofline.copied
        return {
            "seconds": seconds,
            "peak_mib": peaks,
            "tokens": tokens,
            "roofline": {"flops": self._roofline.flops, "copied_bytes": self._roofline.copied},
            "reached": {part: least / seconds[part] for part, least in reached.items() if seconds[part] > 0},
        }

    def table(self) -> Table:
        """The summary as a table that fits 80 columns."""
        found = self.summary()
        count = max(len(self.iterations) - self.warmup, 1)
        seconds, tokens, limits = found["seconds"], found["tokens"], found["roofline"]
        table = Table(
            title=f"Where an iteration goes (median of {count})",
            box=SIMPLE_HEAD, pad_edge=False, caption_justify="left",
        )  # fmt: skip
        for heading in ("part", "s", "share", "peak MiB", "tokens", "of the limit"):
            table.add_column(heading, justify="left" if heading == "part" else "right", no_wrap=True)
        passed = {"generation": "sampled", "scoring": "scoring tokens", "forward": "update tokens"}
        shown: set[str] = set()
        for part, phase in _PHASE_OF.items():
            peak = found["peak_mib"].get(phase) if phase not in shown else None
            shown.add(phase)
            table.add_row(
                part,
                f"{seconds[part]:.3f}",
                f"{seconds[part] / seconds['iteration']:.1%}",
                "" if peak is None else f"{peak:,.0f}",
                f"{tokens[passed[part]]:,.0f}" if passed.get(part) in tokens else "",
                f"{found['reached'][part]:.0%}" if part in found["reached"] else "",
            )
        table.add_section()
        table.add_row("iteration", f"{seconds['iteration']:.3f}")
        table.caption = (
            f"Limits of this machine, measured: {limits['flops'] / 1e9:,.0f} GFLOP/s in a large matrix product "
            f"(scoring, forward, backward), {limits['copied_bytes'] / 1e9:,.1f} GB/s in a copy (optimizer). Peaks are "
            "those of whole phases."
        )
        return table


def _medians(rows: list[dict[str, Any]], key: str) -> dict[str, float]:
    names = dict.fromkeys(name for row in rows for name in row[key])
    return {name: median(row[key].get(name, 0) for row in rows) for name in names}

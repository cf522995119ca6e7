"""The progress line: how the last iteration went, and how long the run still takes.

In a terminal one line, which changes and fits its width; what others write meanwhile goes above it. In a file a line
for each iteration.
"""

import logging
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.utilities import rank_zero_info
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from llds.modules import SearchAgentModule

_EXPLANATION = (
    "The line below: mean reward; mean log-likelihood of correct responses, in nats\n"
    "per token; tool calls of a trajectory; time of an iteration; time that is left."
)
_SHOWN = {"reward": "reward/mean", "likelihood": "policy/log_likelihood_correct", "calls": "rollout/tool_calls"}
_DIGITS = {"reward": 3, "likelihood": 3, "calls": 2}
_PHASES = ("rollout", "score", "update")
_DISPENSABLE = ("calls", "seconds", "likelihood", "left")
"""What a narrow terminal leaves out, in this order."""
_WRITERS = ("lightning.pytorch", "lightning.fabric", "llds.retrieval")
"""Loggers with a handler of their own that writes on the screen."""


class RolloutProgressBar(TQDMProgressBar):
    """Shows iteration, reward, likelihood of correct responses, tool calls, seconds of an iteration and time left.

    Args:
        refresh_rate: Iterations between two updates of the line; 0 switches it off.
        leave: Whether a finished line stays on the screen.
    """

    def __init__(self, refresh_rate: int = 1, leave: bool = True) -> None:
        super().__init__(refresh_rate=refresh_rate, leave=leave)
        self._stack = ExitStack()
        self._begun = 0.0
        self._first = 0

    def init_train_tqdm(self) -> Tqdm:
        """A bar without a bar: the line alone."""
        is_hidden = self.is_disabled or not sys.stdout.isatty()
        return Tqdm(bar_format="{desc}", disable=is_hidden, leave=self._leave, dynamic_ncols=True, file=sys.stdout)

    def on_train_start(self, trainer: pl.Trainer, pl_module: SearchAgentModule) -> None:
        """Say once what the line shows, and begin it; a run that goes on counts from where it was."""
        self._begun, self._first = time.monotonic(), pl_module.iteration
        if self.is_enabled:
            rank_zero_info(_EXPLANATION)
        super().on_train_start(trainer, pl_module)
        if not self.train_progress_bar.disable:
            self._stack.enter_context(_above_the_line())
        self.train_progress_bar.set_description_str(f"iteration {self._first + 1}/{_planned(trainer)} is under way")

    def on_train_epoch_start(self, *_: Any) -> None:
        """Nothing: the line is that of the run."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: SearchAgentModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show the iteration that has just ended."""
        done, planned = pl_module.iteration, _planned(trainer)
        if not self._should_update(done, planned):
            return
        seconds = time.monotonic() - self._begun
        left = seconds / max(1, done - self._first) * (planned - done)
        end = f"{tqdm.format_interval(left)} left" if done < planned else f"{tqdm.format_interval(seconds)} in all"
        shown = self.get_metrics(trainer, pl_module) | {"left": end}
        line = progress_line(done, planned, shown, shutil.get_terminal_size().columns - 1)
        if self.train_progress_bar.disable:
            print(line, flush=True)
        else:
            self.train_progress_bar.set_description_str(line)

    def on_train_epoch_end(self, *_: Any) -> None:
        """Nothing: the line is that of the run."""

    def on_train_end(self, *_: Any) -> None:
        """End the line."""
        self._end()

    def on_exception(self, *_: Any) -> None:
        """End the line, so that the error stands below it."""
        self._end()

    def _end(self) -> None:
        self._stack.close()
        if self._train_progress_bar is not None:
            self.train_progress_bar.close()

    def get_metrics(self, trainer: pl.Trainer, pl_module: SearchAgentModule) -> dict[str, Any]:
        """What the line shows of an iteration, as texts."""
        logged = pl_module.metrics
        shown = {name: f"{name} {logged[key]:.{_DIGITS[name]}f}" for name, key in _SHOWN.items() if key in logged}
        seconds = [logged[f"time/{phase}_s"] for phase in _PHASES if f"time/{phase}_s" in logged]
        return shown | ({"seconds": f"{sum(seconds):.1f} s"} if seconds else {})


def progress_line(done: int, planned: int, shown: dict[str, str], width: int) -> str:
    """The line, without what would make it wider than the terminal.

    Args:
        done: Iterations that are done.
        planned: Of the whole run.
        shown: Texts by their names, in order.
        width: Columns.
    """
    for left_out in range(len(_DISPENSABLE) + 1):
        kept = [text for name, text in shown.items() if name not in _DISPENSABLE[:left_out]]
        line = "  ".join([f"iteration {done}/{planned}", *kept])
        if len(line) <= width:
            return line
    return line[:width]


def _planned(trainer: pl.Trainer) -> int:
    return int(trainer.num_training_batches) * (trainer.max_epochs or 1)


@contextmanager
def _above_the_line() -> Iterator[None]:
    """Let logs and warnings of others be written above the line instead of into it."""

    def show(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
        tqdm.write(warnings.formatwarning(message, category, filename, lineno).rstrip(), file=sys.stderr)

    loggers = [one for one in map(logging.getLogger, _WRITERS) if one.handlers]
    before = warnings.showwarning
    warnings.showwarning = show  # type: ignore[assignment]
    try:
        with logging_redirect_tqdm(loggers):
            yield
    finally:
        warnings.showwarning = before

"""The progress bar: one line that says how the iteration went."""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import TQDMProgressBar

from llds.modules import SearchAgentModule

_SHOWN = {"reward": "reward/mean", "searches": "rollout/searches", "logp+": "policy/log_likelihood_correct"}
_PHASES = ("rollout", "score", "update")


class RolloutProgressBar(TQDMProgressBar):
    """Shows reward, searches, log-likelihood of correct responses, and seconds of rollout/score/update.

    Args:
        refresh_rate: Iterations between two updates of the bar; 0 switches it off.
        leave: Whether a finished bar stays on the screen.
    """

    def __init__(self, refresh_rate: int = 1, leave: bool = True) -> None:
        super().__init__(refresh_rate=refresh_rate, leave=leave)

    def get_metrics(self, trainer: pl.Trainer, pl_module: SearchAgentModule) -> dict[str, Any]:
        """What stands behind the bar."""
        logged = pl_module.metrics
        shown: dict[str, Any] = {name: f"{logged[key]:.3f}" for name, key in _SHOWN.items() if key in logged}
        seconds = [f"{logged[f'time/{phase}_s']:.1f}" for phase in _PHASES if f"time/{phase}_s" in logged]
        if seconds:
            shown["s"] = "/".join(seconds)
        return shown

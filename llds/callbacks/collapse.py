"""The collapse monitor: watches the signals of every iteration and warns.

Left out on purpose: the rule, which is a pure function of the history (`llds.monitor`).
"""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_warn

from llds.data import RolloutBatch
from llds.errors import ConfigurationError
from llds.modules import SearchAgentModule
from llds.monitor import early_warning
from llds.monitor.early_warning import ENTROPY, REWARD


class CollapseMonitor(pl.Callback):
    """Warns once when a run begins to collapse, and again after it has recovered and falls anew.

    Args:
        warmup: Iterations that give the baseline, and before which it is silent.
        reward_share: Warns when the smoothed reward is below this share of its maximum, in (0, 1]...
        entropy_ratio: ...and entropy above this multiple of its baseline, at least 1.
        reward_share_alone: Warns below this share of the maximum whatever the entropy, in (0, 1].

    Attributes:
        history: The signals of each iteration so far.
        is_warning: Whether the last iteration looked like a beginning collapse.

    Raises:
        ConfigurationError: If a value is out of its range.
    """

    def __init__(
        self,
        warmup: int = 5,
        reward_share: float = 0.75,
        entropy_ratio: float = 1.15,
        reward_share_alone: float = 0.6,
    ) -> None:
        shares = (reward_share, reward_share_alone)
        if warmup < 1 or not all(0 < share <= 1 for share in shares) or not entropy_ratio >= 1:
            raise ConfigurationError(
                "Expected `collapse` to have warmup >= 1, reward_share and reward_share_alone in (0, 1] and "
                f"entropy_ratio >= 1, got {warmup}, {reward_share}, {reward_share_alone} and {entropy_ratio}."
            )
        self.warmup = warmup
        self.reward_share = reward_share
        self.entropy_ratio = entropy_ratio
        self.reward_share_alone = reward_share_alone
        self.history: list[dict[str, float]] = []
        self.is_warning = False

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: SearchAgentModule, outputs: Any, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Judge the iteration."""
        self.history.append({key: batch.metrics[key] for key in (REWARD, ENTROPY) if key in batch.metrics})
        found = early_warning(
            self.history,
            warmup=self.warmup,
            reward_share=self.reward_share,
            entropy_ratio=self.entropy_ratio,
            reward_share_alone=self.reward_share_alone,
        )
        if found is not None and not self.is_warning:
            rank_zero_warn(f"Iteration {pl_module.iteration}: {found.message}")
        self.is_warning = found is not None
        batch.metrics["collapse/warning"] = float(self.is_warning)

    def state_dict(self) -> dict[str, Any]:
        """The history."""
        return {"history": self.history, "is_warning": self.is_warning}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the history."""
        self.history, self.is_warning = state_dict["history"], state_dict["is_warning"]

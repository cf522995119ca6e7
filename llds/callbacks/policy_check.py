"""The policy is tried on the training device before it trains: modes, neighbors, and its export.

Left out on purpose: the checks themselves (`llds.modules.policy_trial`), and what its configuration alone can tell,
which is refused before any weight is loaded.
"""

import time
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info

from llds.callbacks.rollout import RolloutCallback
from llds.modules import SearchAgentModule
from llds.modules.policy_trial import PolicyTrial
from llds.strategies import rank, together


class PolicyCheck(pl.Callback):
    """Checks the policy once when `fit` starts; it costs a second or a few, and changes nothing.

    Its log-probabilities must be the same in training and in evaluation mode, and alone and beside a longer row, up to
    ``rollout.limits.total_tokens`` where that is a few seconds of work; its weights must have the names and shapes of a
    plain model, and an export, tried in the run's folder, must load there (of models above 256 MiB, and of those in
    parts over the ranks, names and shapes only).

    Args:
        enabled: Whether it is checked.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled

    def on_fit_start(self, trainer: pl.Trainer, pl_module: SearchAgentModule) -> None:
        """Check.

        Raises:
            ConfigurationError: If one of it does not hold.
        """
        if not self.enabled:
            return
        started = time.perf_counter()
        limits = [one.limits.total_tokens for one in trainer.callbacks if isinstance(one, RolloutCallback)]  # type: ignore[attr-defined]
        dtype = "bfloat16" if str(trainer.precision).startswith("bf16") else pl_module.policy_dtype
        trial = PolicyTrial(pl_module.policy, pl_module.tokenizer, dtype, pl_module.forward_context())
        try_out = partial(trial.log_probs, pl_module.device, min(limits, default=512))
        # Parameters in parts are gathered by all ranks, which then see the same and fail together by themselves.
        tokens = try_out() if pl_module.policy.is_partitioned else together(try_out)[0]
        root, shapes = Path(trainer.default_root_dir), trial.shapes()
        root.mkdir(parents=True, exist_ok=True)
        is_whole = together(lambda: rank() == 0 and trial.export(root, shapes))[0]
        rank_zero_info(
            f"Policy checked in {time.perf_counter() - started:.1f} s: modes agree, rows of up to {tokens} tokens do\n"
            f"not change each other, {'an export loads' if is_whole else 'its weights have their plain names'}."
        )

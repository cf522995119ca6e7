"""A callback of transformers' Trainer, and so of all trainers of TRL, that sees a collapse coming.

trainer = GRPOTrainer(..., callbacks=[CollapseCallback()])
"""

from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llds.errors import ConfigurationError
from llds.integrations.watch import LOG, Watch
from llds.monitor import Settings
from llds.monitor.sources.trl import VOCABULARY


class CollapseCallback(TrainerCallback):
    """Watches what the trainer logs, and says one line when a warning begins and one when an alarm does.

    A line goes to the console (logger ``llds``) and, as an alert, to W&B and Trackio where a run of theirs is active
    (``report_to``). A training that goes on from a checkpoint is judged with all that was logged before.

    How early it can speak depends on what is logged: with the likelihood of correct responses
    (`llds.integrations.trl`), before the reward falls; else when it begins to.

    Args:
        warmup: Logged rows that give the baselines, and in which it is silent.
        webhook: Address that news are posted to, as JSON; None: none.
        stop_after: Steps that an alarm must have lasted for the training to stop; None: it never stops.
        strictness: Below 1 for earlier alarms and more false ones (`llds.monitor.CollapseDetector`).

    Attributes:
        watch: Has the detector, whose ``last`` is the newest diagnosis.

    Raises:
        ConfigurationError: If a value cannot be used.
    """

    def __init__(
        self, warmup: int = 5, webhook: str | None = None, stop_after: int | None = None, strictness: float = 1.0
    ) -> None:
        if warmup < 3 or (stop_after is not None and stop_after < 0) or not strictness > 0:
            raise ConfigurationError(
                "Expected `warmup` >= 3, `stop_after` >= 0 (or None) and `strictness` > 0 of a CollapseCallback, got "
                f"{warmup}, {stop_after} and {strictness}."
            )
        self.watch = Watch(VOCABULARY, warmup=warmup, webhook=webhook, strictness=strictness)
        self.stop_after = stop_after
        self.llds: bool | None = None
        """Whether LLDS is on, where that is known: so that it is not advised then."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """Read what was logged before, if the training goes on."""
        self.watch.detector.settings = Settings(
            llds=self.llds,
            importance_sampling=getattr(args, "vllm_importance_sampling_correction", None),
            gradient_clipping=bool(args.max_grad_norm),
        )
        for logs in state.log_history:
            self.watch.add(int(logs.get("step", 0)), logs, aloud=False)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **others: Any,
    ) -> None:
        """Judge what has just been logged."""
        found = self.watch.add(state.global_step, logs or {}, aloud=state.is_world_process_zero)
        if found is None or self.stop_after is None:
            return
        lasts = found.level == "alarm" and found.iteration - (found.since or 0) >= self.stop_after
        if _of_first_rank(lasts):
            if state.is_world_process_zero:
                LOG.warning("llds: stops the training: an alarm has lasted %s steps.", self.stop_after)
            control.should_training_stop = True


def _of_first_rank(decision: bool) -> bool:
    """The decision of rank 0, for all: ranks that stop at different steps wait for each other forever."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return decision
    box = [decision]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]

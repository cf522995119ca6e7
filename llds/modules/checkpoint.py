"""What the search agent keeps in a checkpoint besides weights, and going on from one: as a resume, or in mid-run.

Left out on purpose: when checkpoints are written (callbacks/checkpoint/callback.py), and how a strategy stores them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from torch import Tensor, nn

from llds.errors import ConfigurationError
from llds.modules.anchor import LaggedAnchor
from llds.modules.nonfinite import NonFiniteGuard
from llds.modules.policy.policy import Policy
from llds.strategies import is_partitioned, load_training_state


class CheckpointHooks(pl.LightningModule):
    """Saves and restores the counters, the anchor and a raised lambda.

    Attributes:
        iteration: Rollout iterations done.
        metrics: Of the last iteration.
        nonfinite: Counts optimizer steps that were skipped.
        anchor: The lagged anchor, where there is one.
        raised_lambda: The LLDS coefficient where it is no longer the configured one.
        reference: The frozen reference, which no checkpoint holds.
        policy_path: Folder of the model that is trained.
    """

    iteration: int
    metrics: dict[str, float]
    nonfinite: NonFiniteGuard
    anchor: LaggedAnchor | None
    raised_lambda: float | None
    reference: Policy | None
    policy_path: str
    _is_resumed: bool

    def set_lambda(self, coefficient: float) -> None:
        """Change the weight of the LLDS penalty."""
        raise NotImplementedError

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the counters; leave the frozen reference out."""
        checkpoint["state_dict"] = {
            name: value for name, value in checkpoint["state_dict"].items() if not name.startswith("reference.")
        }
        checkpoint["search_agent"] = {
            "iteration": self.iteration,
            "metrics": self.metrics,  # saved before the loggers get them: a run that is killed in between loses them
            "nonfinite": self.nonfinite.state_dict(),
            "anchor": self.anchor.state_dict() if self.anchor else None,
            "raised_lambda": self.raised_lambda,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the counters; the reference is the one that was just loaded.

        Raises:
            ConfigurationError: If the weights are those of another model.
        """
        if "state_dict" in checkpoint:
            check_fit(checkpoint["state_dict"], self, self.policy_path)
        if self.reference is not None and "state_dict" in checkpoint:  # ZeRO-3 has loaded the weights already
            checkpoint["state_dict"] |= {
                f"reference.{name}": value for name, value in self.reference.state_dict().items()
            }
        state = checkpoint["search_agent"]
        self.iteration, self.metrics = state["iteration"], state["metrics"]
        self._is_resumed = self.trainer.state.fn == "fit"
        self.nonfinite.load_state_dict(state["nonfinite"])
        if self._is_resumed and state.get("raised_lambda") is not None:
            self.set_lambda(state["raised_lambda"])
        if self.anchor is not None and state["anchor"] is not None:
            self.anchor.load_state_dict(state["anchor"])

    def roll_back(self, path: str | Path) -> dict[str, Any]:
        """Go back to the weights of a checkpoint in mid-run, and go on from them; every rank must call.

        Weights, optimizer, learning rate with its schedule, and the lagged anchor are the checkpoint's. The iterations,
        the optimizer steps and the position in the prompts count on: what comes is new, and sampled by new seeds.

        Args:
            path: A checkpoint of this run; call between two iterations, such as in a callback's ``on_train_batch_end``.

        Returns:
            What else the checkpoint holds, to restore more from.

        Raises:
            ConfigurationError: If it was written with another strategy or another number of ranks.
        """
        checkpoint = load_training_state(self.trainer, Path(path))
        state = checkpoint["search_agent"]
        self.nonfinite.taken()
        if self.anchor is not None:
            self.anchor = LaggedAnchor(self.anchor.lag)
            if state["anchor"] is not None:
                self.anchor.load_state_dict(state["anchor"])
                self.anchor.taken_at += self.iteration - state["iteration"]  # as old as it was
        return checkpoint


def check_fit(weights: Mapping[str, Tensor], module: nn.Module, path: str) -> None:
    """Refuse the weights of another model.

    Args:
        weights: Of the checkpoint, without a reference.
        module: What they are to be loaded into; parameters that are partitioned are not compared.
        path: Folder of the model, for the message.

    Raises:
        ConfigurationError: Naming the first weight that differs.
    """
    own = {name: value for name, value in module.state_dict().items() if not name.startswith("reference.")}
    partitioned = {name for name, value in module.named_parameters() if is_partitioned(value)}
    named = [name for name in (*own, *weights) if name not in partitioned]
    for name in named:
        here, there = _shape(own.get(name)), _shape(weights.get(name))
        if here != there:
            raise ConfigurationError(
                f"Expected `ckpt_path` to hold the weights of the model {path} (`{name}`: {here}), got those of "
                f"another ({there}). Set `model.policy` and `model.lora` as they were when the checkpoint was made."
            )


def _shape(value: Tensor | None) -> str:
    return "none" if value is None else str(list(value.shape))
